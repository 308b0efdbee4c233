"""The ranks of a run: found from torchrun's environment, alone otherwise."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
from torch import distributed

from bert_large.config.training import RANK_SILENCE_SECONDS, RANK_TIMEOUT_SECONDS
from bert_large.distributed.backend import check_backend, choose_backend, will_use_ccl
from bert_large.distributed.bind import BINDING_VARIABLE, count
from bert_large.distributed.consistency import require_agreement, software
from bert_large.distributed.heartbeat import Heartbeat, announce, end_process
from bert_large.errors import InputError, UserError

_NEVER = timedelta(days=30)
"""The backend's own timeout: how long a collective may take is the heartbeat's business."""
_LOOK_EVERY_SECONDS = 0.1
_HEAD_START_SECONDS = 1.0


class MissingRankError(UserError):
    """Not all ranks of the run came."""


@dataclass(frozen=True)
class Ranks:
    """This process among the run's processes, and what they compute together."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    backend: str | None = None
    backend_reason: str = ""
    names: Sequence[str] = ("rank 0",)
    """What messages call each rank."""
    heartbeat: Heartbeat | None = field(default=None, compare=False)

    @property
    def is_main(self) -> bool:
        """Tell whether this rank writes the run's files."""
        return self.rank == 0

    def note(self, doing: str) -> None:
        """Note what this rank does now; one that never does while others wait for it is taken to hang."""
        if self.heartbeat is not None:
            self.heartbeat.note(doing)

    @contextlib.contextmanager
    def busy(self, doing: str) -> Iterator[None]:
        """Note in the block, from a thread, that this rank gets on: with work of any length that has no end of its own.

        Whether it hangs is not watched then, only whether its process lives.
        """
        done = threading.Event()

        def note_on() -> None:
            self.note(doing)
            while not done.wait(_LOOK_EVERY_SECONDS):
                self.note(doing)

        thread = threading.Thread(target=note_on, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def meet(self) -> None:
        """Note that this rank comes to a collective: those here need not call it before."""
        if self.heartbeat is not None:
            self.heartbeat.meet()

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Return the sum of `values` over all ranks, on every rank; a new tensor."""
        total = values.clone()
        if self.world_size > 1:
            self.meet()
            distributed.all_reduce(total)
        return total

    def any(self, condition: bool) -> bool:
        """Tell, on every rank alike, if `condition` holds on any."""
        return bool(self.sum(torch.tensor([float(condition)]))[0])

    def wait_for_all(self) -> None:
        """Return when every rank has come here."""
        if self.world_size > 1:
            self.meet()
            distributed.barrier()

    def gather(self, value: Any) -> list[Any]:
        """Return what every rank gives, in their order, on every rank: what JSON has words for, tuples as lists.

        Not pickled, as PyTorch's own would be: nothing that comes over the network can run code.
        """
        text = _to_bytes(value)
        if self.world_size == 1:
            return [_from_bytes(text)]
        self.meet()
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.world_size)]
        distributed.all_gather(sizes, torch.tensor([len(text)]))
        longest = max(int(size) for size in sizes)
        texts = [torch.zeros(longest, dtype=torch.uint8) for _ in range(self.world_size)]
        padded = torch.zeros(longest, dtype=torch.uint8)
        padded[: len(text)] = text
        distributed.all_gather(texts, padded)
        return [_from_bytes(its[: int(size)]) for its, size in zip(texts, sizes, strict=True)]

    @contextlib.contextmanager
    def failing_together(self) -> Iterator[None]:
        """Raise on every rank what the first rank raises in the block, so that none waits for one that has failed.

        Also waits for all. The message tells who found the error, unless all did. One rank of each machine prints it,
        `local_rank` 0: to the others it is `reported_by_another_rank`.
        """
        mine = None
        try:
            yield
        except UserError as error:
            mine = error
        if self.world_size == 1 and mine is not None:
            raise mine
        failures = self.gather(None if mine is None else [str(mine), mine.exit_code])
        found = next((rank for rank, failure in enumerate(failures) if failure is not None), None)
        if found is None:
            return
        self._end_alike()
        message, exit_code = failures[found]
        failure = mine if found == self.rank and mine is not None else UserError(message)
        failure.exit_code = exit_code
        if None in failures:
            failure.args = (f"{message} (found by {self.names[found]})",)
        failure.reported_by_another_rank = self.local_rank > 0
        if failure.reported_by_another_rank:  # the one that prints it goes first: torchrun ends all when one has ended
            time.sleep(_HEAD_START_SECONDS)
        raise failure

    def require_agreement(self, values: Mapping[str, Any]) -> None:
        """Refuse a run unless every rank gives the same values by name."""
        with self.failing_together():
            require_agreement(self.gather(values), self.names)

    def _end_alike(self) -> None:
        """Note that all ranks end now for a reason that each knows."""
        if self.heartbeat is not None:
            self.heartbeat.close()

    def broadcast(self, value: Any) -> Any:
        """Return rank 0's value on every rank; as `gather` takes and gives it."""
        text = _to_bytes(value)
        if self.world_size > 1:
            self.meet()
            size = torch.tensor([len(text)])
            distributed.broadcast(size, src=0)
            if not self.is_main:
                text = torch.zeros(int(size), dtype=torch.uint8)
            distributed.broadcast(text, src=0)
        return _from_bytes(text)

    def broadcast_tensors(self, tensors: Sequence[torch.Tensor]) -> None:
        """Overwrite tensors with rank 0's."""
        if self.world_size > 1:
            for tensor in tensors:
                self.meet()
                distributed.broadcast(tensor, src=0)

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


def restarts() -> int:
    """Return how often the launcher has started this run's ranks again after one failed."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


@contextlib.contextmanager
def joined_ranks(
    backend: str | None = None,
    silence_seconds: float = RANK_SILENCE_SECONDS,
    timeout_seconds: float = RANK_TIMEOUT_SECONDS,
) -> Iterator[Ranks]:
    """Join the other ranks for a block of work if torchrun started this process; be the only one otherwise.

    They communicate over `backend`, by default the best there is. Raises `InputError` where it is not there.

    While it lasts, a rank without a sign of life for `silence_seconds`, or that keeps others waiting for
    `timeout_seconds` without progress, ends the run: on every other rank with an error that names it, even where that
    is blocked in a collective. What ends the block on one rank, ends all, too.
    """
    for option, value in (("--rank-silence", silence_seconds), ("--rank-timeout", timeout_seconds)):
        if value <= 0:
            raise InputError(f"{option} is {value:g}, expected > 0 seconds")
    check_backend(backend, by_torchrun=distributed.is_torchelastic_launched())
    if "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Ranks()
        return
    for variable in ("MASTER_ADDR", "MASTER_PORT"):
        if variable not in os.environ:
            raise InputError(f"RANK is {os.environ['RANK']} but {variable} is not set; start ranks with torchrun")
    ranks, heartbeat = _join(backend, silence_seconds, timeout_seconds)
    try:
        yield ranks
    except RuntimeError as error:  # what a collective raises when its connections break
        fault = heartbeat.explain()
        if fault is not None:
            end_process(fault)  # not by raising: what the backend still waits for could hold up an orderly end
        heartbeat.tell_failure(f"{type(error).__name__}: {error}")
        raise
    except BaseException as error:
        heartbeat.tell_failure(str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}")
        raise
    heartbeat.close()
    distributed.destroy_process_group()


def _join(asked: str | None, silence_seconds: float, timeout_seconds: float) -> tuple[Ranks, Heartbeat]:
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    attempt = f"attempt_{restarts()}"  # the store may be that of the attempt before
    # torchrun's store, or one that rank 0 hosts where something else has started the ranks.
    is_host = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    timeout, silence = timedelta(seconds=timeout_seconds), timedelta(seconds=silence_seconds)
    try:
        store = distributed.TCPStore(host, port, is_master=is_host, timeout=timeout, wait_for_workers=False)
        connection = distributed.PrefixStore(attempt, store)
        announce(connection, rank)
        alike = {**software(), "backend ccl": will_use_ccl(asked)}  # different backends would wait for one another
        connection.set(f"hello/{rank}", json.dumps({"host": socket.gethostname(), "alike": alike}))
        hellos = [json.loads(value) for value in _gather_keys(connection, "hello", world_size, timeout_seconds)]
        # A connection for the heartbeat alone: each answers one caller at a time.
        client = distributed.TCPStore(host, port, timeout=silence)
        connection.set(f"met/{rank}", "")
        if rank == 0:  # the store may be its own, and go with it if it ends below
            _gather_keys(connection, "met", world_size, timeout_seconds)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise MissingRankError(
            f"rank {rank} did not meet the other {world_size - 1} at {host}:{port}, on rank 0's host: {reason}. See "
            "that all are started, and that hosts reach each other"
        ) from error
    names = [f"rank {number} on host {hello['host']}" for number, hello in enumerate(hellos)]
    require_agreement([hello["alike"] for hello in hellos], names)
    heartbeat = Heartbeat(
        distributed.PrefixStore(attempt, client), rank, names,
        silence_seconds=silence_seconds, stall_seconds=timeout_seconds,
    )  # fmt: skip
    heartbeat.start()
    backend, reason = choose_backend(asked)
    with _output_dropped():  # gloo of PyTorch 2.8 says there that it is connected, where a command's JSON goes
        distributed.init_process_group(backend, store=connection, rank=rank, world_size=world_size, timeout=_NEVER)
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    return Ranks(rank, world_size, local_rank, backend, reason, names, heartbeat), heartbeat


@contextlib.contextmanager
def _output_dropped() -> Iterator[None]:
    """Drop what C++ code writes to standard output."""
    sys.stdout.flush()
    output, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        os.dup2(output, 1)
        os.close(output)
        os.close(nowhere)


def _gather_keys(store: distributed.Store, name: str, world_size: int, timeout_seconds: float) -> list[bytes]:
    """Wait until every rank has set its key of this name, and return what all have set."""
    keys = [f"{name}/{number}" for number in range(world_size)]
    deadline = time.monotonic() + timeout_seconds
    while not store.check(keys):
        if time.monotonic() > deadline:
            missing = [str(number) for number, key in enumerate(keys) if not store.check([key])]
            raise MissingRankError(
                f"rank {', '.join(missing)} of {world_size} not there after {timeout_seconds:g} s: see that it was "
                "started on its host, that it did not end there with an error, and that hosts reach each other"
            )
        time.sleep(_LOOK_EVERY_SECONDS)
    return store.multi_get(keys)
