"""Placement of each rank of this host: its cores, its threads, and the NUMA nodes of its memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TypeVar

from bert_large.distributed.topology import Node, Topology
from bert_large.errors import InputError

MAX_CCL_WORKERS = 4
"""Most cores of a rank that are reserved for oneCCL's workers; the same number as in Intel's package."""
_CORES_PER_CCL_WORKER = 16
"""A rank with fewer cores reserves none: its worker sleeps while it waits, and shares a core with computation."""
_LEAST_PART = 0.75
"""Ranks do not cross NUMA nodes as long as the smallest rank has at least this part of an even share of all cores."""

_T = TypeVar("_T")
_Core = tuple[int, tuple[int, ...]]  # the node's number, the core's hardware threads


@dataclass(frozen=True)
class RankPlacement:
    """The cores, threads and memory of one rank."""

    nodes: tuple[int, ...]
    """NUMA nodes of its cores."""
    cpus: tuple[int, ...]
    """One hardware thread of each of its cores, because threads of one core share its arithmetic units."""
    threads: int
    """Number of computing threads: that of the cores, or fewer if control groups limit CPU time."""
    binds_cores: bool
    """Whether the process is bound to `cpus`; the only rank of a host uses all of them without binding."""
    memory_nodes: tuple[int, ...] = ()
    """NUMA nodes of its memory. If empty, the node of the core that first touches a page."""
    ccl_worker_cpus: tuple[int, ...] = ()
    """Cores reserved for oneCCL's workers."""


def default_ranks(topology: Topology) -> int:
    """Return one rank per NUMA node, or fewer if control groups do not allow one CPU for each."""
    return min(len(topology.nodes), topology.threads)


def place_ranks(topology: Topology, ranks: int, *, ccl: bool = False) -> tuple[RankPlacement, ...]:
    """Distribute the cores over ranks; with `ccl` some cores of each are reserved for oneCCL's workers."""
    if ranks > topology.cores:
        raise InputError(
            f"RANKS_PER_NODE or HOSTFILE sets {ranks} ranks, but this process has {topology.cores} cores; "
            f"set at most {topology.cores}, or set BIND=none to let ranks share cores"
        )
    parts = _deal(topology.nodes, ranks)
    workers = _ccl_workers(min(map(len, parts))) if ccl else 0
    placements = []
    for rank, cores in enumerate(parts):
        set_aside, computing = cores[:workers], cores[workers:]
        cpus = tuple(threads[0] for _, threads in computing)
        placements.append(
            RankPlacement(
                nodes=tuple(sorted({number for number, _ in cores})),
                cpus=cpus,
                threads=min(len(cpus), _share_of_threads(topology, ranks, rank)),
                binds_cores=ranks > 1 or workers > 0,
                memory_nodes=_memory_nodes(topology.nodes, cores),
                ccl_worker_cpus=tuple(threads[0] for _, threads in set_aside),
            )
        )
    return tuple(placements)


def leave_unbound(topology: Topology, ranks: int) -> tuple[RankPlacement, ...]:
    """Return placements that let every rank use all cores, with an even share of the threads."""
    return tuple(
        RankPlacement(
            nodes=tuple(node.number for node in topology.nodes),
            cpus=tuple(threads[0] for node in topology.nodes for threads in node.cores),
            threads=max(1, topology.threads // ranks),
            binds_cores=False,
        )
        for _ in range(ranks)
    )


def _deal(nodes: Sequence[Node], ranks: int) -> list[list[_Core]]:
    """Return the cores of each rank: of one NUMA node or of whole nodes if that is nearly even, else cut evenly.

    Ranks have equal work, so all of them are as slow as the one with the fewest cores.
    """
    per_node = [[(node.number, core) for core in node.cores] for node in nodes]
    everything = list(chain.from_iterable(per_node))
    parts: list[list[_Core]] = []
    if ranks % len(nodes) == 0:
        parts = [part for cores in per_node for part in _split(cores, ranks // len(nodes))]
    elif len(nodes) % ranks == 0:
        parts = [list(chain.from_iterable(group)) for group in _split(per_node, ranks)]
    if parts and min(map(len, parts)) >= _LEAST_PART * len(everything) / ranks:
        return parts
    return _split(everything, ranks)


def _split(items: Sequence[_T], parts: int) -> list[list[_T]]:
    """Cut a sequence into consecutive parts whose lengths differ by at most one."""
    return [list(items[len(items) * part // parts : len(items) * (part + 1) // parts]) for part in range(parts)]


def _share_of_threads(topology: Topology, ranks: int, rank: int) -> int:
    """Return a rank's even share of the threads that control groups allow, at least one."""
    total = topology.threads
    if total == topology.cores:
        return total
    return max(1, total * (rank + 1) // ranks - total * rank // ranks)


def _ccl_workers(cores: int) -> int:
    """Return the number of cores that a rank reserves: one in 16, at most `MAX_CCL_WORKERS`."""
    return min(MAX_CCL_WORKERS, cores // _CORES_PER_CCL_WORKER)


def _memory_nodes(nodes: Sequence[Node], cores: Sequence[_Core]) -> tuple[int, ...]:
    """Return the nodes that a rank's memory is bound to.

    Empty if the host has one node, or if the rank may not allocate memory on the nodes of its cores.
    """
    if len(nodes) == 1:
        return ()
    own = {number for number, _ in cores}
    return tuple(node.number for node in nodes if node.number in own and node.may_hold_memory)
