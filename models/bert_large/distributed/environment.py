"""The ranks of a run: found from torchrun's environment, alone otherwise."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass

import torch
from torch import distributed

from bert_large.distributed.backend import check_backend, choose_backend
from bert_large.distributed.bind import BINDING_VARIABLE, count
from bert_large.errors import UserError


@dataclass(frozen=True)
class Ranks:
    """This process among the run's processes, and what they compute together."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    backend: str | None = None
    backend_reason: str = ""

    @property
    def is_main(self) -> bool:
        """Tell whether this rank writes the run's files."""
        return self.rank == 0

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Return the sum of `values` over all ranks, on every rank; a new tensor."""
        total = values.clone()
        if self.world_size > 1:
            distributed.all_reduce(total)
        return total

    def any(self, condition: bool) -> bool:
        """Tell, on every rank alike, if `condition` holds on any."""
        return bool(self.sum(torch.tensor([float(condition)]))[0])

    def wait_for_all(self) -> None:
        """Return when every rank has come here."""
        if self.world_size > 1:
            distributed.barrier()

    def raise_together(self, error: UserError | None) -> None:
        """Raise on every rank what any rank gives, so that none waits for one that has failed; also waits for all."""
        errors = [error]
        if self.world_size > 1:
            errors = [None] * self.world_size
            distributed.all_gather_object(errors, error)
        for found in errors:
            if found is not None:
                raise found

    def broadcast_text(self, text: str) -> str:
        """Return rank 0's text on every rank."""
        holder = [text]
        if self.world_size > 1:
            distributed.broadcast_object_list(holder)
        return holder[0]

    def describe(self) -> str:
        """Return one line on the ranks and their threads."""
        threads = f"{torch.get_num_threads()} threads"
        if self.world_size == 1:
            return f"1 rank, {threads}"
        return f"{self.world_size} ranks over {self.backend}, {threads} each"

    def describe_bindings(self) -> list[str]:
        """Return a line on the backend, one a rank on what it is bound to, and each remark once.

        All ranks must call it.
        """
        own = os.environ.get(BINDING_VARIABLE, "not bound")
        line, _, remark = own.partition("\n")
        place = f"{count(torch.get_num_threads(), 'thread')} {line}"
        places = [(place, remark)]
        if self.world_size > 1:
            places *= self.world_size
            distributed.all_gather_object(places, (f"{place}, on {socket.gethostname()}", remark))
        lines = [f"rank {rank}: {place}" for rank, (place, _) in enumerate(places)]
        if self.backend is not None:
            lines.insert(0, f"backend {self.backend}: {self.backend_reason}")
        return lines + list(dict.fromkeys(remark for _, remark in places if remark))


def join_ranks(backend: str | None = None) -> Ranks:
    """Join the other ranks if torchrun started this process, over a backend, by default the best there is.

    The only one otherwise. Raises `InputError` where the backend asked for is not there.
    """
    check_backend(backend, by_torchrun=distributed.is_torchelastic_launched())
    if "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Ranks()
    backend, reason = choose_backend(backend)
    distributed.init_process_group(backend)
    rank, world_size = distributed.get_rank(), distributed.get_world_size()
    return Ranks(rank, world_size, int(os.environ.get("LOCAL_RANK", "0")), backend, reason)


def leave_ranks(ranks: Ranks) -> None:
    """Close the connections to the other ranks."""
    if ranks.world_size > 1:
        distributed.destroy_process_group()
