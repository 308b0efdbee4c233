"""Joining the ranks of a run: from torchrun's environment, or as the only rank without it.

Ranks first meet in a key-value store (TCP). There they compare their software before the backend connects them, since
ranks of different versions or backends could wait for one another forever.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta

from torch import distributed

from bert_large.config.training import RANK_SILENCE_SECONDS, RANK_TIMEOUT_SECONDS
from bert_large.distributed.backend import can_use_ccl, check_backend, choose_backends, load_ccl, start_fastest
from bert_large.distributed.collectives import Ranks
from bert_large.distributed.consistency import require_agreement, software
from bert_large.distributed.heartbeat import Heartbeat, announce, end_process
from bert_large.distributed.hosts import MAX_PORT, whole_number
from bert_large.errors import InputError, UserError

_NEVER = timedelta(days=30)
"""Timeout given to the backend: the heartbeat decides how long a collective may take."""
_POLL_SECONDS = 0.1


class MissingRankError(UserError):
    """Not all ranks of the run could be reached at its start."""


def restarts() -> int:
    """Return how often the launcher has started the ranks of this run again after one of them failed."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


@contextlib.contextmanager
def joined_ranks(
    backend: str | None = None,
    silence_seconds: float = RANK_SILENCE_SECONDS,
    timeout_seconds: float = RANK_TIMEOUT_SECONDS,
) -> Iterator[Ranks]:
    """Join the other ranks for the block if torchrun started this process; be the only rank otherwise.

    They communicate over `backend`, by default the best one that is available; raises `InputError` if it is not.

    While the block runs, a rank without a sign of life for `silence_seconds`, or without progress for
    `timeout_seconds` while others wait for it, ends the run: every other rank exits with an error that names it, even
    if it is blocked in a collective. An exception that leaves the block on one rank terminates all others too.
    """
    check_backend(backend, by_torchrun=distributed.is_torchelastic_launched())
    rank, world_size = whole_number(os.environ, "RANK", least=0), whole_number(os.environ, "WORLD_SIZE", least=1) or 1
    if rank is None or world_size == 1:
        yield Ranks()
        return
    ranks, heartbeat = _join(backend, rank, world_size, silence_seconds, timeout_seconds)
    try:
        yield ranks
    except RuntimeError as error:  # raised by a collective whose connections break
        fault = heartbeat.explain()
        if fault is not None:
            end_process(fault)  # rather than raise: pending operations of the backend could block an orderly end
        heartbeat.report_failure(f"{type(error).__name__}: {error}")
        raise
    except BaseException as error:
        if heartbeat.is_closed:  # all ranks fail together
            distributed.destroy_process_group()
        else:
            heartbeat.report_failure(str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}")
        raise
    heartbeat.close()
    # A thread of the backend that finds its connections closed while the process exits could abort the process.
    distributed.destroy_process_group()


def _join(
    asked: str | None, rank: int, world_size: int, silence_seconds: float, timeout_seconds: float
) -> tuple[Ranks, Heartbeat]:
    host, port = os.environ.get("MASTER_ADDR"), whole_number(os.environ, "MASTER_PORT", least=1, most=MAX_PORT)
    for variable, value in (("MASTER_ADDR", host), ("MASTER_PORT", port)):
        if not value:
            raise InputError(f"RANK is {rank} but {variable} is not set; start ranks with torchrun")
    assert host is not None and port is not None
    prefix = f"attempt_{restarts()}"  # after a restart the store still has the keys of the attempt before
    # The store is torchrun's. If another program has started the ranks, rank 0 hosts it.
    is_host = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    timeout = timedelta(seconds=timeout_seconds)
    try:
        store = distributed.TCPStore(host, port, is_master=is_host, timeout=timeout, wait_for_workers=False)
        connection = distributed.PrefixStore(prefix, store)
        announce(connection, rank)
        alike = {**software(), "backend ccl": can_use_ccl(asked)}
        connection.set(f"hello/{rank}", json.dumps({"host": socket.gethostname(), "alike": alike}))
        hellos = [json.loads(value) for value in _gather_keys(connection, "hello", world_size, timeout_seconds)]
        # The heartbeat has a connection of its own, because a connection serves one call at a time.
        client = distributed.TCPStore(host, port, timeout=timedelta(seconds=silence_seconds))
        connection.set(f"met/{rank}", "")
        if rank == 0:  # if it hosts the store and ends below, the others must have read the store before
            _gather_keys(connection, "met", world_size, timeout_seconds)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise MissingRankError(
            f"rank {rank} did not meet the other {world_size - 1} at {host}:{port}, on rank 0's host: {reason}. Check "
            "that all ranks were started, that hosts can reach each other, and that no other program uses the port"
        ) from error
    names = [f"rank {number} on host {hello['host']}" for number, hello in enumerate(hellos)]
    require_agreement([hello["alike"] for hello in hellos], names)
    heartbeat = Heartbeat(
        distributed.PrefixStore(prefix, client), rank, names,
        silence_seconds=silence_seconds, stall_seconds=timeout_seconds,
    )  # fmt: skip
    heartbeat.start()
    backend, reason = _start_backend(asked, connection, rank, [hello["host"] for hello in hellos])
    local_rank = whole_number(os.environ, "LOCAL_RANK", least=0) or 0
    return Ranks(rank, world_size, local_rank, backend, reason, names, heartbeat), heartbeat


def _start_backend(asked: str | None, store: distributed.Store, rank: int, hosts: Sequence[str]) -> tuple[str, str]:
    """Initialize the process group with the backend that is asked for, or the fastest; return it and the reason.

    `hosts` are the hosts of all ranks.
    """
    candidates, reason = choose_backends(asked)
    oneccl = ""
    if "ccl" in candidates:
        here = [number for number, host in enumerate(hosts) if host == hosts[rank]]
        oneccl = load_ccl(here.index(rank), len(here), one_host=len(here) == len(hosts))
    attempts = itertools.count()

    def start(backend: str) -> None:
        own = distributed.PrefixStore(f"backend_{next(attempts)}", store)  # a store keeps the keys of the one before
        with _output_dropped():  # gloo of PyTorch 2.8 prints there that it is connected, amid the JSON of a command
            distributed.init_process_group(backend, store=own, rank=rank, world_size=len(hosts), timeout=_NEVER)

    if len(candidates) > 1:
        backend, reason = start_fastest(candidates, start)
    else:
        backend = candidates[0]
        start(backend)
    return backend, f"{reason}; {oneccl}" if backend == "ccl" else reason


@contextlib.contextmanager
def _output_dropped() -> Iterator[None]:
    """Drop what C++ code writes to standard output, if that is open."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
        output = os.dup(1)
    except OSError:  # closed, or on a full disk: not what this block is about
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        os.dup2(output, 1)
        os.close(output)
        os.close(nowhere)


def _gather_keys(store: distributed.Store, name: str, world_size: int, timeout_seconds: float) -> list[bytes]:
    """Wait until every rank has set its key of this name, and return all their values."""
    keys = [f"{name}/{number}" for number in range(world_size)]
    deadline = time.monotonic() + timeout_seconds
    while not store.check(keys):
        if time.monotonic() > deadline:
            missing = [str(number) for number, key in enumerate(keys) if not store.check([key])]
            raise MissingRankError(
                f"rank {', '.join(missing)} of {world_size} did not join within {timeout_seconds:g} s. Check that it "
                "was started on its host and did not end there with an error, and that hosts can reach each other"
            )
        time.sleep(_POLL_SECONDS)
    return store.multi_get(keys)
