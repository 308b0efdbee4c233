"""Machines recorded in topologies/: the contents of Linux's files on them, shortened to the parts that are read.

`thread_siblings_list` is `sort -u /sys/devices/system/cpu/cpu*/topology/thread_siblings_list` on one line; the lines of
nodes are those of /sys/devices/system/node, the others of /proc/self/status and the control group.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

from bert_large.distributed.topology import Topology, parse_list, read_topology

FOLDER = Path(__file__).parent / "topologies"
NAMES = sorted(path.stem for path in FOLDER.glob("*.txt"))

_CGROUP = "0::/\n"
_MOUNTINFO = "31 23 0:28 / /sys/fs/cgroup ro,nosuid shared:9 - cgroup2 cgroup rw,nsdelegate\n"


def write_file(path: Path, text: str) -> None:
    """Write a file and create its parent folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def read_machine(name: str, root: Path) -> Topology:
    """Write the files of a machine below `root` and return the topology read from them."""
    lines = (FOLDER / f"{name}.txt").read_text().splitlines()
    facts = [line.split() for line in lines if not line.startswith("#")]
    for path, text in itertools.chain.from_iterable(_files(key, words) for key, *words in facts):
        write_file(root / path, text)
    allowed = next((words[0] for key, *words in facts if key == "Cpus_allowed_list"), "")
    return read_topology(root, parse_list(allowed))


def _files(key: str, words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield path and text of the files that one line of a recorded machine describes."""
    system = "sys/devices/system"
    if key == "thread_siblings_list":
        for siblings in words:
            for cpu in parse_list(siblings):
                yield f"{system}/cpu/cpu{cpu}/topology/thread_siblings_list", f"{siblings}\n"
    elif key.startswith("node") and words[0] == "cpulist":
        yield f"{system}/node/{key}/cpulist", "".join(words[1:]) + "\n"
    elif key.startswith("node"):
        number, size = key[4:], words[1]
        yield f"{system}/node/{key}/meminfo", f"Node {number} MemTotal: {size} kB\nNode {number} MemFree: 1 kB\n"
    elif key == "Mems_allowed_list":
        yield "proc/self/status", f"Name:\tpython\nMems_allowed_list:\t{words[0]}\n"
    elif key == "cpu.max":
        yield "proc/self/cgroup", _CGROUP
        yield "proc/self/mountinfo", _MOUNTINFO
        yield "sys/fs/cgroup/cpu.max", " ".join(words) + "\n"
    else:
        assert key == "Cpus_allowed_list", key
