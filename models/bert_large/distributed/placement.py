"""Where each rank of this machine computes: its cores, its threads, the NUMA nodes of its memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TypeVar

from bert_large.distributed.topology import Node, Topology
from bert_large.errors import InputError

MAX_CCL_WORKERS = 4
"""Cores of a rank that oneCCL's workers get, at most; Intel's package sets aside as many."""
_CORES_PER_CCL_WORKER = 4
_LEAST_PART = 0.75
"""Ranks keep to NUMA nodes as long as the smallest gets this part of an even share of all cores."""

_T = TypeVar("_T")
_Core = tuple[int, tuple[int, ...]]  # the node's number, the core's hardware threads


@dataclass(frozen=True)
class RankPlacement:
    """What one rank of this machine computes on."""

    nodes: tuple[int, ...]
    """NUMA nodes that its cores are of."""
    cpus: tuple[int, ...]
    """One hardware thread of each core that it computes on: two threads of one core share its arithmetic units."""
    threads: int
    """How many threads compute: fewer than cores where control groups allow less CPU time."""
    binds_cores: bool
    """Whether the process is kept to `cpus`; the only rank of a machine has them all anyway."""
    memory_nodes: tuple[int, ...] = ()
    """NUMA nodes that its memory comes from; empty: wherever it is first touched."""
    ccl_worker_cpus: tuple[int, ...] = ()
    """Cores set aside for oneCCL's workers."""


def default_ranks(topology: Topology) -> int:
    """Return one rank per NUMA node, fewer where control groups do not give each a CPU."""
    return min(len(topology.nodes), topology.threads)


def place_ranks(topology: Topology, ranks: int, *, ccl: bool = False) -> tuple[RankPlacement, ...]:
    """Deal the cores to ranks; with `ccl` each sets cores aside for oneCCL's workers.

    Raises:
        InputError: there are more ranks than cores.
    """
    if ranks > topology.cores:
        raise InputError(
            f"{ranks} ranks are asked for (RANKS_PER_NODE or HOSTFILE), but this process has {topology.cores} cores; "
            f"ask for at most {topology.cores}, or set BIND=none to let ranks share cores"
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
    """Let every rank use all cores, each with its share of the threads."""
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
    """Return each rank's cores, of one NUMA node or of whole nodes if that is nearly even, else cut evenly.

    Ranks compute as much as each other, so all are as slow as the one with the fewest cores.
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
    """Cut a sequence into consecutive parts whose lengths differ by one at most."""
    return [list(items[len(items) * part // parts : len(items) * (part + 1) // parts]) for part in range(parts)]


def _share_of_threads(topology: Topology, ranks: int, rank: int) -> int:
    """Return how many threads control groups leave a rank: an even share of theirs, one at least."""
    total = topology.threads
    if total == topology.cores:
        return total
    return max(1, total * (rank + 1) // ranks - total * rank // ranks)


def _ccl_workers(cores: int) -> int:
    """Return how many cores a rank sets aside: a quarter, from one to `MAX_CCL_WORKERS`; none of a single core."""
    return 0 if cores == 1 else max(1, min(MAX_CCL_WORKERS, cores // _CORES_PER_CCL_WORKER))


def _memory_nodes(nodes: Sequence[Node], cores: Sequence[_Core]) -> tuple[int, ...]:
    """Return the nodes that a rank's memory is kept to.

    None where there is one node, and for a rank on a single node whose memory it may not have.
    """
    if len(nodes) == 1:
        return ()
    own = {number for number, _ in cores}
    return tuple(node.number for node in nodes if node.number in own and node.may_hold_memory)
