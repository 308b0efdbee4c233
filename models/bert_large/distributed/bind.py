"""Binds a rank to its cores and memory, then replaces the process by the rank's program.

torchrun starts `python -m bert_large.distributed.bind PROGRAM [ARGUMENT ...]` for each rank. OpenMP reads its settings
once, when PyTorch is loaded, so they must be set before: nothing here imports PyTorch.

Cores are bound as a set, inside which the threads of a rank move freely. If each thread were pinned (OMP_PROC_BIND,
GOMP_CPU_AFFINITY), GNU's OpenMP would bind the main thread to one core, and with it all threads and processes that it
starts: those of gloo, and those that read data.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import NoReturn

from bert_large.distributed.placement import RankPlacement
from bert_large.distributed.topology import format_list

PLACEMENTS_VARIABLE = "BERT_LARGE_PLACEMENTS"
"""The environment variable in which the launcher passes the placements of all local ranks."""
BINDING_VARIABLE = "BERT_LARGE_BINDING"
"""The environment variable with a description of the binding for the program: one line, and optionally a remark."""

# From <linux/mempolicy.h>, and the number of the system call on the architectures that PyTorch supports.
_MPOL_BIND, _MPOL_INTERLEAVE = 2, 3
_SET_MEMPOLICY = {"x86_64": 238, "aarch64": 237}
_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>

# Variables that can bind threads to CPUs by number, and a text that their value then contains.
_NAMES_CPUS = {"GOMP_CPU_AFFINITY": "", "OMP_PLACES": "{", "KMP_AFFINITY": "proclist"}


def encode_placements(placements: Iterable[RankPlacement]) -> str:
    """Return the value of `PLACEMENTS_VARIABLE` for these placements."""
    return json.dumps([asdict(placement) for placement in placements])


def decode_placements(text: str) -> list[RankPlacement]:
    """Return the placements encoded by `encode_placements`."""
    placements = []
    for fields in json.loads(text):
        lists = {name: tuple(value) for name, value in fields.items() if isinstance(value, list)}
        placements.append(RankPlacement(**{**fields, **lists}))
    return placements


def rank_variables(
    placements: Sequence[RankPlacement], local_rank: int, environment: Mapping[str, str]
) -> dict[str, str]:
    """Return the variables for the libraries of a rank, except those that the user has set.

    The number of threads is always that of the placement, which already considers the user's. Variables that begin
    with KMP are read by Intel's OpenMP only; their values are those of Intel's package. oneCCL expects the worker cores
    of all ranks of the host in one list, and must know that no MPI launcher started the ranks.
    """
    placement = placements[local_rank]
    variables = {"KMP_BLOCKTIME": "1"}
    owns_its_cores = placement.binds_cores and placement.threads == len(placement.cpus)
    if owns_its_cores and names_cpus(environment) is None:
        variables["KMP_AFFINITY"] = "granularity=fine,compact,1,0"
    workers = [cpu for each in placements for cpu in each.ccl_worker_cpus]
    if workers:
        variables |= {
            "CCL_WORKER_COUNT": str(len(placement.ccl_worker_cpus)),
            "CCL_WORKER_AFFINITY": ",".join(map(str, workers)),
            "CCL_PROCESS_LAUNCHER": "none",
            "CCL_LOCAL_SIZE": str(len(placements)),
            "CCL_LOCAL_RANK": str(local_rank),
        }
    kept = {name: value for name, value in variables.items() if not environment.get(name)}
    return {"OMP_NUM_THREADS": str(placement.threads), **kept}


def names_cpus(environment: Mapping[str, str]) -> str | None:
    """Return the name of the user's variable that binds threads to CPUs, or None if there is none."""
    for name, mark in _NAMES_CPUS.items():
        if environment.get(name) and mark in environment[name]:
            return name
    return None


def describe(placement: RankPlacement, environment: Mapping[str, str]) -> str:
    """Return a description of the cores and memory that a rank is bound to."""
    own = names_cpus(environment)
    if own is not None:
        cores = f"on the CPUs of {own}"
    elif placement.binds_cores:
        cores = f"on {_name('CPU', placement.cpus)} of NUMA {_name('node', placement.nodes)}"
    else:
        cores = f"on any of {len(placement.cpus)} cores" if len(placement.cpus) > 1 else "on the one core"
    memory = "interleaved over" if len(placement.memory_nodes) > 1 else "of"
    return cores + (f", memory {memory} {_name('node', placement.memory_nodes)}" if placement.memory_nodes else "")


def count(number: int, what: str) -> str:
    """Return a number with its noun: `1 thread`, `2 threads`."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def _name(what: str, numbers: Sequence[int]) -> str:
    return f"{what}{'' if len(numbers) == 1 else 's'} {format_list(numbers)}"


def bind(placement: RankPlacement, environment: Mapping[str, str]) -> str:
    """Bind this process and the processes that it starts; return the value of `BINDING_VARIABLE`.

    If the system refuses to bind memory, as in most containers, memory is allocated on the node that first touches it.
    Since cores are bound, that is the rank's own node.
    """
    if placement.binds_cores and names_cpus(environment) is None:
        os.sched_setaffinity(0, placement.cpus)
    if placement.memory_nodes:
        try:
            set_memory_policy(placement.memory_nodes)
        except OSError as error:
            return (
                f"{describe(replace(placement, memory_nodes=()), environment)}, memory not bound\n"
                f"memory is not bound to NUMA nodes: the system refused ({error.strerror}), so it is allocated on the "
                "node that first touches it; a container can bind it with DOCKER_ARGS='--cap-add SYS_NICE'"
            )
    return describe(placement, environment)


def set_memory_policy(nodes: Iterable[int]) -> None:
    """Allocate memory on one NUMA node, or alternate pages between several, for this process and those that it starts.

    With one node, binding keeps allocations local even when the page cache fills the node. A rank with cores on several
    nodes reads its weights from all of them: without interleaving, one node would hold and serve all weights. Raises
    `OSError` if the system refuses, as in most containers, or if the number of the system call is unknown here.
    """
    number = _SET_MEMPOLICY.get(platform.machine())
    if number is None:
        raise OSError(0, f"not known on {platform.machine()}")
    bits = ctypes.sizeof(ctypes.c_ulong) * 8
    words = [0] * (max(nodes := tuple(nodes)) // bits + 1)
    for node in nodes:
        words[node // bits] |= 1 << node % bits
    mask = (ctypes.c_ulong * len(words))(*words)
    call = ctypes.CDLL(None, use_errno=True).syscall
    policy = _MPOL_INTERLEAVE if len(nodes) > 1 else _MPOL_BIND
    # The kernel uses one bit less than the number passed.
    if call(ctypes.c_long(number), ctypes.c_int(policy), mask, ctypes.c_ulong(bits * len(words) + 1)) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def become(placements: Sequence[RankPlacement], local_rank: int, program: Sequence[str]) -> NoReturn:
    """Bind this process as a local rank and replace it by the program."""
    environment = {**os.environ, BINDING_VARIABLE: bind(placements[local_rank], os.environ)}
    environment |= rank_variables(placements, local_rank, environment)
    os.execvpe(program[0], list(program), environment)


def _end_with_launcher() -> None:
    """Have the kernel kill this process, and the program that it becomes, when the launcher exits.

    torchrun ends its ranks when it ends normally. If it is killed, the ranks would continue, and write into the same
    folder as the run that is started in their place.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> NoReturn:
    """Bind the rank that torchrun started as the launcher planned, and run its program."""
    _end_with_launcher()
    become(decode_placements(os.environ[PLACEMENTS_VARIABLE]), int(os.environ["LOCAL_RANK"]), sys.argv[1:])


if __name__ == "__main__":
    main()
