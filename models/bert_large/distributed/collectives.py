"""The ranks of a run, and the collective operations that they compute together.

Values other than tensors are exchanged as JSON, never pickled: data from the network must not be able to run code.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import distributed

from bert_large.distributed.bind import BINDING_VARIABLE, count
from bert_large.distributed.consistency import require_agreement
from bert_large.distributed.heartbeat import Heartbeat
from bert_large.errors import UserError

_BUSY_NOTE_SECONDS = 0.1
_HEAD_START_SECONDS = 1.0


@dataclass(frozen=True)
class Ranks:
    """This process's view of the ranks of a run. Every collective method must be called by all ranks."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    backend: str | None = None
    backend_reason: str = ""
    names: Sequence[str] = ("rank 0",)
    """The name of each rank in messages."""
    heartbeat: Heartbeat | None = field(default=None, compare=False)

    @property
    def is_main(self) -> bool:
        """Whether this rank writes the files of the run."""
        return self.rank == 0

    # Progress, for the heartbeat.

    def note(self, doing: str) -> None:
        """Record progress and the current activity.

        A rank that makes no progress while others wait for it is terminated.
        """
        if self.heartbeat is not None:
            self.heartbeat.note(doing)

    @contextlib.contextmanager
    def busy(self, doing: str) -> Iterator[None]:
        """Record progress from a background thread while the block runs: for work of unpredictable duration.

        A hang inside the block is not detected, only a dead process.
        """
        done = threading.Event()

        def keep_noting() -> None:
            self.note(doing)
            while not done.wait(_BUSY_NOTE_SECONDS):
                self.note(doing)

        thread = threading.Thread(target=keep_noting, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def meet(self) -> None:
        """Record that this rank arrives at a collective; the methods of this class do so themselves."""
        if self.heartbeat is not None:
            self.heartbeat.meet()

    # Tensors.

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Return the sum of `values` over all ranks, on every rank, as a new tensor."""
        total = values.clone()
        if self.world_size > 1:
            self.meet()
            distributed.all_reduce(total)
        return total

    def broadcast_tensors(self, tensors: Sequence[torch.Tensor]) -> None:
        """Overwrite tensors with those of rank 0."""
        if self.world_size > 1:
            for tensor in tensors:
                self.meet()
                distributed.broadcast(tensor, src=0)

    # Values: numbers, texts, lists and dictionaries of them. Tuples come back as lists.

    def any(self, condition: bool) -> bool:
        """Return, on every rank, whether `condition` holds on at least one."""
        return bool(self.sum(torch.tensor([float(condition)]))[0])

    def wait_for_all(self) -> None:
        """Return when every rank has called this."""
        if self.world_size > 1:
            self.meet()
            distributed.barrier()

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all ranks, in the order of ranks, on every rank."""
        text = _to_bytes(value)
        if self.world_size == 1:
            return [_from_bytes(text)]
        self.meet()
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.world_size)]
        distributed.all_gather(sizes, torch.tensor([len(text)]))
        longest = max(int(size) for size in sizes)  # all_gather needs tensors of equal size
        texts = [torch.zeros(longest, dtype=torch.uint8) for _ in range(self.world_size)]
        padded = torch.zeros(longest, dtype=torch.uint8)
        padded[: len(text)] = text
        distributed.all_gather(texts, padded)
        return [_from_bytes(gathered[: int(size)]) for gathered, size in zip(texts, sizes, strict=True)]

    def broadcast(self, value: Any) -> Any:
        """Return rank 0's value on every rank."""
        text = _to_bytes(value)
        if self.world_size > 1:
            self.meet()
            size = torch.tensor([len(text)])
            distributed.broadcast(size, src=0)
            if not self.is_main:
                text = torch.zeros(int(size), dtype=torch.uint8)
            distributed.broadcast(text, src=0)
        return _from_bytes(text)

    def require_agreement(self, values: Mapping[str, Any]) -> None:
        """Raise `InputError` on all ranks unless every rank has the same values."""
        with self.failing_together():
            require_agreement(self.gather(values), self.names)

    # Errors.

    @contextlib.contextmanager
    def failing_together(self) -> Iterator[None]:
        """If any rank raises `UserError` in the block, raise it on all ranks: none waits for one that has failed.

        All ranks wait for each other at the end of the block. If several failed, the error of the first is raised.
        """
        own = None
        try:
            yield
        except UserError as error:
            own = error
        if self.world_size == 1 and own is not None:
            raise own
        failures = self.gather(None if own is None else [str(own), own.exit_code])
        first = next((rank for rank, failure in enumerate(failures) if failure is not None), None)
        if first is None:
            return
        if self.heartbeat is not None:  # all ranks exit now, for a reason that all know
            self.heartbeat.close()
        failure = own if own is not None and first == self.rank else UserError(failures[first][0])
        failure.exit_code = failures[first][1]
        if None in failures:
            failure.args = (f"{failures[first][0]} (found by {self.names[first]})",)
        # One rank of each host prints the error. It exits first, because torchrun terminates all ranks when one exits.
        failure.reported_by_another_rank = self.local_rank > 0
        if failure.reported_by_another_rank:
            time.sleep(_HEAD_START_SECONDS)
        raise failure

    # Descriptions.

    def describe(self) -> str:
        """Return one line about the ranks and their threads."""
        threads = f"{torch.get_num_threads()} threads"
        if self.world_size == 1:
            return f"1 rank, {threads}"
        return f"{self.world_size} ranks over {self.backend}, {threads} each"

    def describe_bindings(self) -> list[str]:
        """Return one line about the backend, one per rank about its cores and memory, and each remark once."""
        line, _, remark = os.environ.get(BINDING_VARIABLE, "not bound").partition("\n")
        place = f"{count(torch.get_num_threads(), 'thread')} {line}"
        if self.world_size > 1:
            place += f", on {socket.gethostname()}"
        places = self.gather((place, remark))
        lines = [f"rank {rank}: {place}" for rank, (place, _) in enumerate(places)]
        if self.backend is not None:
            lines.insert(0, f"backend {self.backend}: {self.backend_reason}")
        return lines + list(dict.fromkeys(remark for _, remark in places if remark))


def _to_bytes(value: Any) -> torch.Tensor:
    return torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)


def _from_bytes(text: torch.Tensor) -> Any:
    return json.loads(text.numpy().tobytes())
