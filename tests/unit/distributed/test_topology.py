"""Topology read from Linux's files on recorded machines, and limits of CPU time."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from bert_large.distributed.topology import Topology, format_list, parse_list, read_topology
from hypothesis import given
from hypothesis import strategies as st

from .machines import read_machine, write_file


def summary(topology: Topology) -> list[tuple[int, int, tuple[int, ...], tuple[int, ...]]]:
    """Return the number, number of cores, first core and last core of each node."""
    return [(node.number, len(node.cores), node.cores[0], node.cores[-1]) for node in topology.nodes]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("one_node", [(0, 2, (0,), (1,))]),
        ("one_node_hyper_threads", [(0, 8, (0, 1), (14, 15))]),
        ("two_nodes", [(0, 28, (0, 56), (27, 83)), (1, 28, (28, 84), (55, 111))]),
        ("two_nodes_interleaved", [(0, 16, (0,), (30,)), (1, 16, (1,), (31,))]),
        ("two_nodes_one_left_out", [(1, 28, (28, 84), (55, 111))]),
        ("two_nodes_cores_left_out", [(0, 24, (4, 60), (27, 83)), (1, 26, (32, 88), (87,))]),
        ("two_nodes_lopsided", [(0, 28, (0, 56), (27, 83)), (1, 1, (28, 84), (28, 84))]),
        ("two_nodes_hbm", [(0, 28, (0, 56), (27, 83)), (1, 28, (28, 84), (55, 111))]),
        ("four_nodes", [(n, 24, (24 * n,), (24 * n + 23,)) for n in range(4)]),
        ("sub_numa_clusters", [(n, 14, (14 * n, 112 + 14 * n), (14 * n + 13, 125 + 14 * n)) for n in range(8)]),
    ],
)
def test_nodes_and_cores(
    name: str, expected: list[tuple[int, int, tuple[int, ...], tuple[int, ...]]], tmp_path: Path
) -> None:
    topology = read_machine(name, tmp_path)
    assert summary(topology) == expected
    assert topology.cpu_quota is None
    assert topology.cores == topology.threads == sum(count for _, count, *_ in expected)


def test_memory(tmp_path: Path) -> None:
    assert read_machine("two_nodes", tmp_path / "a").nodes[1].memory_bytes == 132118528 * 1024
    assert [node.may_hold_memory for node in read_machine("two_nodes", tmp_path / "b").nodes] == [True, True]
    assert [node.may_hold_memory for node in read_machine("two_nodes_no_memory", tmp_path / "c").nodes] == [True, False]


def test_without_any_files(tmp_path: Path) -> None:
    """A kernel without NUMA, or a sandbox that hides the files: one node, every CPU is a core, no limit."""
    topology = read_topology(tmp_path, {3, 5})
    assert summary(topology) == [(0, 2, (3,), (5,))]
    assert topology.nodes[0].memory_bytes is None and topology.nodes[0].may_hold_memory
    assert topology.cpu_quota is None


def test_this_machine() -> None:
    """The cores contain each CPU that this process may use exactly once."""
    cpus = [cpu for node in read_topology().nodes for core in node.cores for cpu in core]
    assert sorted(cpus) == sorted(os.sched_getaffinity(0))


def test_the_current_name_of_the_siblings_file(tmp_path: Path) -> None:
    for cpu in (0, 1):
        write_file(tmp_path / f"sys/devices/system/cpu/cpu{cpu}/topology/core_cpus_list", "0-1\n")
    assert summary(read_topology(tmp_path, {0, 1})) == [(0, 1, (0, 1), (0, 1))]


V2 = "31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
V1 = "32 31 0:29 /docker/abc /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct\n"


@pytest.mark.parametrize(
    ("groups", "mounts", "files", "quota"),
    [
        ("0::/\n", V2, {"cpu.max": "250000 100000"}, 2.5),
        ("0::/\n", V2, {"cpu.max": "max 100000"}, None),
        ("0::/\n", V2, {}, None),
        ("0::/pod/box\n", V2, {"pod/cpu.max": "150000 100000", "pod/box/cpu.max": "max 100000"}, 1.5),
        ("0::/pod/box\n", V2, {"pod/cpu.max": "400000 100000", "pod/box/cpu.max": "300000 100000"}, 3.0),
        ("0::/../other\n", V2, {"cpu.max": "50000 100000"}, 0.5),
        ("4:cpu,cpuacct:/docker/abc\n3:cpuset:/\n", V1,
         {"cpu,cpuacct/cpu.cfs_quota_us": "600000", "cpu,cpuacct/cpu.cfs_period_us": "100000"}, 6.0),
        ("4:cpu,cpuacct:/docker/abc\n", V1,
         {"cpu,cpuacct/cpu.cfs_quota_us": "-1", "cpu,cpuacct/cpu.cfs_period_us": "100000"}, None),
        ("4:cpu,cpuacct:/docker/abc/task\n", V1,
         {"cpu,cpuacct/task/cpu.cfs_quota_us": "200000", "cpu,cpuacct/task/cpu.cfs_period_us": "100000"}, 2.0),
        ("0::/\n4:cpu,cpuacct:/docker/abc\n", V2.replace("/sys/fs/cgroup", "/sys/fs/cgroup/unified") + V1,
         {"cpu,cpuacct/cpu.cfs_quota_us": "200000", "cpu,cpuacct/cpu.cfs_period_us": "100000"}, 2.0),
    ],
)  # fmt: skip
def test_limits_of_control_groups(
    groups: str, mounts: str, files: dict[str, str], quota: float | None, tmp_path: Path
) -> None:
    """In both versions, of the group and its parents, seen from inside and outside a container."""
    write_file(tmp_path / "proc/self/cgroup", groups)
    write_file(tmp_path / "proc/self/mountinfo", mounts)
    for name, text in files.items():
        write_file(tmp_path / "sys/fs/cgroup" / name, text + "\n")
    assert read_topology(tmp_path, range(8)).cpu_quota == quota


@pytest.mark.parametrize(("quota", "threads"), [(None, 4), (2.5, 2), (0.5, 1), (4.0, 4), (64.0, 4)])
def test_threads_within_the_limit(quota: float | None, threads: int, tmp_path: Path) -> None:
    assert Topology(read_topology(tmp_path, range(4)).nodes, quota).threads == threads


@given(st.sets(st.integers(0, 300)))
def test_lists_read_back(numbers: set[int]) -> None:
    assert parse_list(format_list(numbers)) == sorted(numbers)


def test_lists() -> None:
    assert parse_list("0-2,8\n") == [0, 1, 2, 8] and parse_list("\n") == []
    assert format_list([9, 0, 1, 2, 4, 5]) == "0-2,4-5,9"
