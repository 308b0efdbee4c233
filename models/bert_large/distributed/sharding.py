"""The optimizer's state divided among ranks.

ZeRO's first stage (Rajbhandari et al. 2020, "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models"):
each parameter has an owner, the rank that alone keeps its moments and updates it. Parameters stay whole, so that LAMB's
norms are each computed on one rank, by the same additions as without sharding.

PyTorch's `ZeroRedundancyOptimizer` divides parameters alike, but stands between the training step and the optimizer
(whose `gradient_scale` clipping sets), and can only save by gathering all state, pickled, on one rank. Here the
optimizer is an ordinary one over the parameters that a rank owns, and state reaches a checkpoint tensor by tensor.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence

import torch
from torch import distributed, nn

from bert_large.distributed.collectives import Ranks

_PACKED_BYTES = 1 << 20
"""Parameters up to this size travel together."""


def assign_owners(sizes: Mapping[str, int], world_size: int) -> dict[str, int]:
    """Return the rank that owns each parameter, given their elements: the largest first, to whom has least."""
    loads = [(0, rank) for rank in range(world_size)]
    owners = {}
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        load, owner = heapq.heappop(loads)
        owners[name] = owner
        heapq.heappush(loads, (load + sizes[name], owner))
    return owners


class ParameterShards:
    """Who owns which parameter of a model, and how ranks get what others own. Every rank makes the same calls."""

    def __init__(self, model: nn.Module, ranks: Ranks) -> None:
        self._parameters = dict(model.named_parameters())
        self._ranks = ranks
        self._owners = assign_owners({name: its.numel() for name, its in self._parameters.items()}, ranks.world_size)

    @property
    def owned(self) -> frozenset[str]:
        """Names of the parameters that this rank owns."""
        return frozenset(name for name, owner in self._owners.items() if owner == self._ranks.rank)

    @torch.no_grad()
    def share_weights(self) -> None:
        """Give every rank the weights that their owners have updated."""
        self._ranks.meet()
        packs, pending = [], []
        for owner in sorted(set(self._owners.values())):
            weights = [weight for name, weight in self._parameters.items() if self._owners[name] == owner]
            small = [weight for weight in weights if weight.nbytes <= _PACKED_BYTES]
            messages = [weight.detach() for weight in weights if weight.nbytes > _PACKED_BYTES]
            if small:
                packs.append((owner, torch.cat([weight.flatten() for weight in small]), small))
                messages.append(packs[-1][1])
            pending += [distributed.broadcast(message, src=owner, async_op=True) for message in messages]
        for work in pending:
            work.wait()
        for owner, packed, weights in packs:
            if owner != self._ranks.rank:
                _unpack(packed, weights)
        # Communication writes behind autograd's back; engines that keep copies of weights go by these counters.
        others = [weight for name, weight in self._parameters.items() if self._owners[name] != self._ranks.rank]
        torch.autograd.graph.increment_version(others)

    def send_to_main(self, name: str, tensor: torch.Tensor | None) -> torch.Tensor | None:
        """Return, on the main rank, what the owner of parameter `name` has given; None on all others.

        `tensor` is of the parameter's shape and type, or None on ranks that don't own it.
        """
        self._ranks.meet()
        owner = self._owners[name]
        if self._ranks.rank == 0 and owner != 0:
            tensor = torch.empty_like(self._parameters[name], requires_grad=False)
            distributed.recv(tensor, src=owner)
        elif self._ranks.rank == owner != 0:
            assert tensor is not None
            distributed.send(tensor, dst=0)
        return tensor if self._ranks.rank == 0 else None


def _unpack(packed: torch.Tensor, weights: Sequence[torch.Tensor]) -> None:
    for part, weight in zip(packed.split([weight.numel() for weight in weights]), weights, strict=True):
        weight.copy_(part.view_as(weight))
