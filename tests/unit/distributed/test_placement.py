"""The cores, threads and memory of each rank, on recorded machines and on any machine."""

from __future__ import annotations

from pathlib import Path

import pytest
from bert_large.distributed.placement import default_ranks, leave_unbound, place_ranks
from bert_large.distributed.topology import Node, Topology, format_list
from bert_large.errors import InputError
from hypothesis import given
from hypothesis import strategies as st

from .machines import NAMES, read_machine


@pytest.mark.parametrize(
    ("name", "ranks", "expected"),
    [
        ("one_node", 1, ["0-1"]),
        ("one_node", 2, ["0", "1"]),
        ("one_node_hyper_threads", 1, ["0,2,4,6,8,10,12,14"]),
        ("one_node_hyper_threads", 3, ["0,2", "4,6,8", "10,12,14"]),
        ("two_nodes", 2, ["0-27", "28-55"]),
        ("two_nodes", 4, ["0-13", "14-27", "28-41", "42-55"]),
        ("two_nodes", 1, ["0-55"]),
        ("two_nodes", 3, ["0-17", "18-36", "37-55"]),
        ("two_nodes_interleaved", 2, [",".join(map(str, range(0, 32, 2))), ",".join(map(str, range(1, 32, 2)))]),
        ("two_nodes_one_left_out", 1, ["28-55"]),
        ("two_nodes_cores_left_out", 2, ["4-27", "32-55,86-87"]),
        ("four_nodes", 4, ["0-23", "24-47", "48-71", "72-95"]),
        ("four_nodes", 2, ["0-47", "48-95"]),
        ("sub_numa_clusters", 8, ["0-13", "14-27", "28-41", "42-55", "56-69", "70-83", "84-97", "98-111"]),
        ("sub_numa_clusters", 2, ["0-55", "56-111"]),
    ],
)
def test_cores_of_ranks(name: str, ranks: int, expected: list[str], tmp_path: Path) -> None:
    """Of whole nodes if their numbers divide; one hardware thread per core, and as many threads."""
    placements = place_ranks(read_machine(name, tmp_path), ranks)
    assert [format_list(placement.cpus) for placement in placements] == expected
    assert [placement.threads for placement in placements] == [len(placement.cpus) for placement in placements]


@pytest.mark.parametrize(
    ("name", "ranks"),
    [("one_node", 1), ("two_nodes", 2), ("two_nodes_one_left_out", 1), ("two_nodes_hbm", 2), ("four_nodes", 4),
     ("sub_numa_clusters", 8), ("two_nodes_lopsided", 2), ("two_nodes_quota", 2)],
)  # fmt: skip
def test_a_rank_per_node(name: str, ranks: int, tmp_path: Path) -> None:
    """For every node with cores that may be used; nodes with memory only have none."""
    assert default_ranks(read_machine(name, tmp_path)) == ranks


def test_no_more_ranks_than_a_limit_gives_threads(tmp_path: Path) -> None:
    assert default_ranks(Topology(read_machine("sub_numa_clusters", tmp_path).nodes, 2.5)) == 2


@pytest.mark.parametrize(
    ("name", "ranks", "memory"),
    [
        ("one_node", 2, [(), ()]),
        ("two_nodes", 2, [(0,), (1,)]),
        ("two_nodes", 4, [(0,), (0,), (1,), (1,)]),
        ("two_nodes", 1, [(0, 1)]),
        ("two_nodes", 3, [(0,), (0, 1), (1,)]),
        ("sub_numa_clusters", 2, [(0, 1, 2, 3), (4, 5, 6, 7)]),
        ("two_nodes_no_memory", 2, [(0,), ()]),
        ("two_nodes_one_left_out", 1, [()]),
        ("two_nodes_hbm", 2, [(0,), (1,)]),
    ],
)
def test_memory_is_on_the_nodes_of_the_rank(
    name: str, ranks: int, memory: list[tuple[int, ...]], tmp_path: Path
) -> None:
    placements = place_ranks(read_machine(name, tmp_path), ranks)
    assert [placement.memory_nodes for placement in placements] == memory


def test_a_single_rank_is_not_bound(tmp_path: Path) -> None:
    topology = read_machine("two_nodes", tmp_path)
    assert [placement.binds_cores for placement in place_ranks(topology, 1)] == [False]
    assert [placement.binds_cores for placement in place_ranks(topology, 2)] == [True, True]


def test_a_node_with_few_cores_does_not_slow_down_all_ranks(tmp_path: Path) -> None:
    """A rank with one core would delay a rank with 28, so cores are cut evenly instead."""
    placements = place_ranks(read_machine("two_nodes_lopsided", tmp_path), 2)
    assert [len(placement.cpus) for placement in placements] == [14, 15]
    assert [placement.nodes for placement in placements] == [(0,), (0, 1)]


def test_a_cpu_limit_reduces_threads_and_not_cores(tmp_path: Path) -> None:
    """Otherwise several containers on a machine would all use the first cores."""
    topology = read_machine("two_nodes_quota", tmp_path)
    (alone,) = place_ranks(topology, 1)
    assert (alone.threads, len(alone.cpus)) == (2, 56)
    assert [(placement.threads, len(placement.cpus)) for placement in place_ranks(topology, 2)] == [(1, 28), (1, 28)]


@pytest.mark.parametrize(
    ("name", "ranks", "workers"),
    [
        ("two_nodes", 2, [(0,), (28,)]),
        ("two_nodes", 1, [(0, 1, 2)]),
        ("one_node_hyper_threads", 2, [(), ()]),
        ("one_node", 2, [(), ()]),
    ],
)
def test_cores_reserved_for_oneccl(name: str, ranks: int, workers: list[tuple[int, ...]], tmp_path: Path) -> None:
    """One in 16, at most four of a rank; the rank itself does not use them."""
    placements = place_ranks(read_machine(name, tmp_path), ranks, ccl=True)
    assert [placement.ccl_worker_cpus for placement in placements] == workers
    for placement in placements:
        assert not set(placement.cpus) & set(placement.ccl_worker_cpus)
        assert placement.threads == len(placement.cpus) > 0
        assert placement.binds_cores or not placement.ccl_worker_cpus


def test_more_ranks_than_cores_are_refused(tmp_path: Path) -> None:
    topology = read_machine("one_node_hyper_threads", tmp_path)
    with pytest.raises(InputError, match=r"RANKS_PER_NODE .*9 .*8"):
        place_ranks(topology, 9)
    assert [placement.threads for placement in leave_unbound(topology, 9)] == [1] * 9


def test_unbound_ranks_share_the_threads(tmp_path: Path) -> None:
    placements = leave_unbound(read_machine("two_nodes", tmp_path), 3)
    assert [placement.threads for placement in placements] == [18, 18, 18]
    assert not any(placement.binds_cores or placement.memory_nodes for placement in placements)


@st.composite
def topologies(draw: st.DrawFn) -> Topology:
    """Draw machines of up to five nodes, of any numbers of cores, with one to four hardware threads each."""
    cpus = iter(draw(st.permutations(range(200))))
    nodes = []
    for number in sorted(draw(st.sets(st.integers(0, 9), min_size=1, max_size=5))):
        threads = draw(st.lists(st.integers(1, 4), min_size=1, max_size=9))
        cores = sorted(tuple(sorted(next(cpus) for _ in range(count))) for count in threads)
        nodes.append(Node(number, tuple(cores), None, draw(st.booleans())))
    return Topology(tuple(nodes), draw(st.none() | st.floats(0.1, 100)))


@given(topologies(), st.data(), st.booleans())
def test_any_machine(topology: Topology, data: st.DataObject, ccl: bool) -> None:
    """Each core is used at most once, by one hardware thread, and each rank has at least one core and thread."""
    ranks = data.draw(st.integers(1, topology.cores))
    placements = place_ranks(topology, ranks, ccl=ccl)
    core_of = {cpu: core for node in topology.nodes for core in node.cores for cpu in core}
    used = [cpu for placement in placements for cpu in (*placement.cpus, *placement.ccl_worker_cpus)]
    assert len(placements) == ranks
    assert sorted(core_of[cpu] for cpu in used) == sorted(core for node in topology.nodes for core in node.cores)
    sizes = [len(placement.cpus) + len(placement.ccl_worker_cpus) for placement in placements]
    assert min(sizes) >= 0.75 * (topology.cores // ranks)
    for placement in placements:
        assert 1 <= placement.threads <= len(placement.cpus)
        assert set(placement.memory_nodes) <= set(placement.nodes)
    if topology.cpu_quota is not None and topology.threads >= ranks:
        assert sum(placement.threads for placement in placements) <= topology.threads
    if len({len(node.cores) for node in topology.nodes}) == 1:
        assert max(sizes) - min(sizes) <= 1
        if ranks % len(topology.nodes) == 0:
            assert all(len(placement.nodes) == 1 for placement in placements)


@pytest.mark.parametrize("name", NAMES)
def test_recorded_machines_get_their_default(name: str, tmp_path: Path) -> None:
    """Only CPUs that may be used, and as many threads as may run."""
    topology = read_machine(name, tmp_path)
    placements = place_ranks(topology, default_ranks(topology))
    allowed = {cpu for node in topology.nodes for core in node.cores for cpu in core}
    assert {cpu for placement in placements for cpu in placement.cpus} <= allowed
    assert sum(placement.threads for placement in placements) == topology.threads
