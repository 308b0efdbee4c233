"""Keep a rank to its cores and memory, then become its program.

`python -m bert_large.distributed.bind PROGRAM [ARGUMENT ...]` is what torchrun starts for each rank: OpenMP reads its
settings once, when PyTorch is loaded, so they must be there before. Nothing here imports PyTorch.

Cores are bound as a set, and threads of a rank move freely inside. Pinning each thread (OMP_PROC_BIND,
GOMP_CPU_AFFINITY) would make GNU's OpenMP keep the main thread to one core, and with it all threads and processes that
it starts: gloo's, and those that read data.
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
from typing import Any, NoReturn

from bert_large.distributed.placement import RankPlacement
from bert_large.distributed.topology import format_list

PLACEMENTS_VARIABLE = "BERT_LARGE_PLACEMENTS"
"""The environment variable with every local rank's placement, from the launcher."""
BINDING_VARIABLE = "BERT_LARGE_BINDING"
"""The environment variable that tells the program what it is bound to: a line, and maybe a remark on another."""

# Of the kernel's interface: <linux/mempolicy.h>, and the number of the call on the architectures that PyTorch has.
_MPOL_BIND, _MPOL_INTERLEAVE = 2, 3
_SET_MEMPOLICY = {"x86_64": 238, "aarch64": 237}
_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>

# Variables that name CPUs by number, and what shows that they do.
_NAMES_CPUS = {"GOMP_CPU_AFFINITY": "", "OMP_PLACES": "{", "KMP_AFFINITY": "proclist"}


def encode_placements(placements: Iterable[RankPlacement]) -> str:
    """Return the value of `PLACEMENTS_VARIABLE`."""
    return json.dumps([asdict(placement) for placement in placements])


def decode_placements(text: str) -> list[RankPlacement]:
    """Return the placements of a value that `encode_placements` made."""
    placements = []
    for fields in json.loads(text):
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()
        }
        placements.append(RankPlacement(**values))
    return placements


def rank_variables(
    placements: Sequence[RankPlacement], local_rank: int, environment: Mapping[str, str]
) -> dict[str, str]:
    """Return the variables that a rank's libraries need, without those that the user has set.

    The number of threads is the plan's, which knows the user's. Names that begin with KMP are read by Intel's OpenMP
    alone; the values are those of Intel's package. oneCCL is given the workers' cores of all ranks of the machine at
    once, and is told that no MPI launcher started the ranks.
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
    """Return the user's variable that names the CPUs of threads itself, if there is one."""
    for name, mark in _NAMES_CPUS.items():
        if environment.get(name) and mark in environment[name]:
            return name
    return None


def describe(placement: RankPlacement, environment: Mapping[str, str]) -> str:
    """Return in words what a rank is to be bound to."""
    own = names_cpus(environment)
    if own is not None:
        cores = f"where {own} says"
    elif placement.binds_cores:
        cores = f"on {_name('CPU', placement.cpus)} of NUMA {_name('node', placement.nodes)}"
    else:
        cores = f"on any of {len(placement.cpus)} cores" if len(placement.cpus) > 1 else "on the one core"
    memory = "interleaved over" if len(placement.memory_nodes) > 1 else "of"
    return cores + (f", memory {memory} {_name('node', placement.memory_nodes)}" if placement.memory_nodes else "")


def count(number: int, what: str) -> str:
    """Return a number of things in words: `1 thread`, `2 threads`."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def _name(what: str, numbers: Sequence[int]) -> str:
    return f"{what}{'' if len(numbers) == 1 else 's'} {format_list(numbers)}"


def bind(placement: RankPlacement, environment: Mapping[str, str]) -> str:
    """Bind this process and all that it starts; return the text of `BINDING_VARIABLE`.

    Memory stays unbound where the system refuses, as most containers do. It then comes from where it is first touched,
    which bound cores make their own node.
    """
    if placement.binds_cores and names_cpus(environment) is None:
        os.sched_setaffinity(0, placement.cpus)
    if placement.memory_nodes:
        try:
            set_memory_policy(placement.memory_nodes)
        except OSError as error:
            return (
                f"{describe(replace(placement, memory_nodes=()), environment)}, memory not bound\n"
                f"memory is not bound to NUMA nodes: the system refused ({error.strerror}), so it comes from the node "
                "that first touches it; a container may bind it with DOCKER_ARGS='--cap-add SYS_NICE'"
            )
    return describe(placement, environment)


def set_memory_policy(nodes: Iterable[int]) -> None:
    """Take memory from one NUMA node, or from several page by page in turn, for this process and all that it starts.

    From one: nothing else keeps memory there when the cache of files fills the node. From several: a rank whose cores
    are on several nodes shares its weights between them, and the node that touched them first would serve all alone.

    Raises:
        OSError: the system refuses, as most containers do, or the call's number is not known here.
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
    # The kernel takes one bit less than it is told of.
    if call(ctypes.c_long(number), ctypes.c_int(policy), mask, ctypes.c_ulong(bits * len(words) + 1)) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def become(placements: Sequence[RankPlacement], local_rank: int, program: Sequence[str]) -> NoReturn:
    """Bind this process as a local rank and replace it by the program."""
    environment = {**os.environ, BINDING_VARIABLE: bind(placements[local_rank], os.environ)}
    environment |= rank_variables(placements, local_rank, environment)
    os.execvpe(program[0], list(program), environment)


def _end_with_launcher() -> None:
    """Have this process, and the program that it becomes, killed when the launcher is gone.

    torchrun ends its ranks when it ends in order. Were it killed, they would go on, and write into the same folder as
    the run that is started in their place.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> NoReturn:
    """Become a rank that torchrun started, placed as the launcher planned."""
    _end_with_launcher()
    become(decode_placements(os.environ[PLACEMENTS_VARIABLE]), int(os.environ["LOCAL_RANK"]), sys.argv[1:])


if __name__ == "__main__":
    main()
