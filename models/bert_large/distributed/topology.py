"""NUMA nodes, cores, memory and CPU limits available to this process, read from sysfs and procfs.

These are present in every container. `lscpu` is not, and its output differs between versions.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath


@dataclass(frozen=True)
class Node:
    """A NUMA node of which this process may use at least one core."""

    number: int
    cores: tuple[tuple[int, ...], ...]
    """For every physical core, its hardware threads (CPU numbers) that may be used, ascending."""
    memory_bytes: int | None
    """Size of its memory; None if unknown."""
    may_hold_memory: bool
    """Whether this process may allocate memory of the node."""


@dataclass(frozen=True)
class Topology:
    """The nodes in ascending order, and the CPU time that control groups allow, in CPUs; None means no limit."""

    nodes: tuple[Node, ...]
    cpu_quota: float | None = None

    @property
    def cores(self) -> int:
        """The number of physical cores."""
        return sum(len(node.cores) for node in self.nodes)

    @property
    def threads(self) -> int:
        """The number of threads that can run at once, one per core, or fewer if control groups limit CPU time."""
        return self.cores if self.cpu_quota is None else min(self.cores, max(1, int(self.cpu_quota)))


def read_topology(root: Path = Path("/"), allowed: Iterable[int] | None = None) -> Topology:
    """Return the topology of the CPUs in `allowed`, by default those of this process, from the files below `root`.

    Nodes without usable CPUs (memory only, or excluded by a CPU set) are left out.
    """
    cpus = set(os.sched_getaffinity(0) if allowed is None else allowed)
    system = root / "sys/devices/system"
    memory_nodes = _allowed_memory_nodes(root)
    nodes = []
    for folder in sorted(system.glob("node/node[0-9]*"), key=lambda path: int(path.name[4:])):
        number = int(folder.name[4:])
        own = cpus & set(parse_list(read_text(folder / "cpulist")))
        if own:
            memory = _memory_bytes(folder)
            may_hold = memory != 0 and (memory_nodes is None or number in memory_nodes)
            nodes.append(Node(number, _cores(system / "cpu", own), memory, may_hold))
    if not nodes:  # a kernel without NUMA
        nodes = [Node(0, _cores(system / "cpu", cpus), None, may_hold_memory=True)]
    return Topology(tuple(nodes), _cpu_quota(root))


def parse_list(text: str) -> list[int]:
    """Return the numbers of Linux's list format: `0-2,8` is 0, 1, 2 and 8."""
    numbers: list[int] = []
    for part in text.strip().split(","):
        if part:
            first, _, last = part.partition("-")
            numbers.extend(range(int(first), int(last or first) + 1))
    return numbers


def format_list(numbers: Iterable[int]) -> str:
    """Return numbers in Linux's list format, ascending."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def _cores(folder: Path, cpus: set[int]) -> tuple[tuple[int, ...], ...]:
    """Group CPUs by physical core; without information from the system, each CPU is a core."""
    cores = set()
    for cpu in cpus:
        topology = folder / f"cpu{cpu}/topology"
        # The current name of the file, and its name in older kernels.
        siblings = read_text(topology / "core_cpus_list") or read_text(topology / "thread_siblings_list")
        cores.add(tuple(sorted(cpus & {cpu, *parse_list(siblings)})))
    return tuple(sorted(cores))


def _memory_bytes(node: Path) -> int | None:
    for line in read_text(node / "meminfo").splitlines():  # "Node 0 MemTotal:       131789824 kB"
        words = line.split()
        if "MemTotal:" in words:
            return int(words[-2]) * 1024
    return None


def _allowed_memory_nodes(root: Path) -> set[int] | None:
    for line in read_text(root / "proc/self/status").splitlines():
        name, _, value = line.partition(":")
        if name == "Mems_allowed_list":
            return set(parse_list(value))
    return None


def _cpu_quota(root: Path) -> float | None:
    """Return the smallest CPU limit of this process's control groups (v1 and v2) and their parents, in CPUs."""
    quotas = []
    for folder in control_groups(root, "cpu"):
        words = read_text(folder / "cpu.max").split() or [
            *read_text(folder / "cpu.cfs_quota_us").split(),
            *read_text(folder / "cpu.cfs_period_us").split(),
        ]
        if len(words) == 2 and words[0] not in ("max", "-1"):
            quotas.append(int(words[0]) / int(words[1]))
    return min(quotas, default=None)


def control_groups(root: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of this process's control groups (v1 and v2) for a controller, each followed by its parents.

    `controller` is `cpu` or `memory`. A limit can be set at any level.
    """
    groups = {}
    for line in read_text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers or controller in controllers.split(","):
            groups["cgroup" if controllers else "cgroup2"] = PurePosixPath(path)
    for line in read_text(root / "proc/self/mountinfo").splitlines():
        mount, _, filesystem = line.partition(" - ")
        source, mount_point = mount.split()[3:5]
        kind, _, mount_options = filesystem.split()[:3]
        if kind not in groups or (kind == "cgroup" and controller not in mount_options.split(",")):
            continue
        group = groups[kind]
        inside = group.relative_to(source) if group.is_relative_to(source) else PurePosixPath()
        for part in (inside, *inside.parents):
            yield root / mount_point.lstrip("/") / part


def read_text(path: Path) -> str:
    """Return the text of a file of sysfs or procfs; empty if it does not exist or cannot be read."""
    try:
        return path.read_text()
    except OSError:
        return ""
