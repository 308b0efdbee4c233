"""Optimizer state divided among ranks.

The first stage of ZeRO (Rajbhandari et al. 2020, "ZeRO: Memory Optimizations Toward Training Trillion Parameter
Models"): each parameter has an owner, the only rank that keeps its moments and updates it. Parameters are not split, so
each of LAMB's norms is computed on one rank, with the same additions as without sharding: results are bit-identical.

PyTorch's `ZeroRedundancyOptimizer` divides parameters in the same way, but it wraps the optimizer, whose
`gradient_scale` the training step sets, and saves by gathering the whole state, pickled, on one rank. Here the
optimizer is an ordinary one over the parameters that a rank owns, and its state goes to a checkpoint tensor by tensor.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping

import torch
from torch import distributed, nn

from bert_large.distributed.collectives import Ranks

_PACKED_BYTES = 1 << 20
"""Parameters up to this size are sent in one message per owner."""


def assign_owners(sizes: Mapping[str, int], world_size: int) -> dict[str, int]:
    """Return the owner of each parameter, given its size: largest first, each to the rank that owns the least."""
    loads = [(0, rank) for rank in range(world_size)]
    owners = {}
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        load, owner = heapq.heappop(loads)
        owners[name] = owner
        heapq.heappush(loads, (load + sizes[name], owner))
    return owners


class ParameterShards:
    """The owners of a model's parameters, and the exchange of weights and state. All ranks must make the same calls."""

    def __init__(self, model: nn.Module, ranks: Ranks) -> None:
        self._parameters = dict(model.named_parameters())
        self._ranks = ranks
        self._owners = assign_owners(
            {name: weight.numel() for name, weight in self._parameters.items()}, ranks.world_size
        )

    @property
    def owned(self) -> frozenset[str]:
        """Names of the parameters that this rank owns."""
        return frozenset(name for name, owner in self._owners.items() if owner == self._ranks.rank)

    @torch.no_grad()
    def share_weights(self) -> None:
        """Send the weights from the owners, which have updated them, to all ranks."""
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
                for part, weight in zip(packed.split([weight.numel() for weight in weights]), weights, strict=True):
                    weight.copy_(part.view_as(weight))
        # Communication writes without autograd's knowledge. Engines use these version counters to refresh their copies
        # of weights.
        others = [weight for name, weight in self._parameters.items() if self._owners[name] != self._ranks.rank]
        torch.autograd.graph.increment_version(others)

    def send_to_main(self, name: str, tensor: torch.Tensor | None) -> torch.Tensor | None:
        """Return the owner's `tensor` for parameter `name` on the main rank, and None on all others.

        `tensor` has the parameter's shape and dtype; it is None on ranks that do not own the parameter.
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
