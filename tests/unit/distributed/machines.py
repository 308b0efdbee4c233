"""Machines as recorded in topologies/: what Linux's files say on them, shortened to what is read.

`thread_siblings_list` is `sort -u /sys/devices/system/cpu/cpu*/topology/thread_siblings_list` on one line; the lines of
nodes are those of /sys/devices/system/node, the others of /proc/self/status and the control group.
"""

from __future__ import annotations

from pathlib import Path

from bert_large.distributed.topology import Topology, parse_list, read_topology

FOLDER = Path(__file__).parent / "topologies"
NAMES = sorted(path.stem for path in FOLDER.glob("*.txt"))

_CGROUP = "0::/\n"
_MOUNTINFO = "31 23 0:28 / /sys/fs/cgroup ro,nosuid shared:9 - cgroup2 cgroup rw,nsdelegate\n"


def write_file(path: Path, text: str) -> None:
    """Write a file and the folders that it is in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def read_machine(name: str, root: Path) -> Topology:
    """Write a machine's files below `root` and return the topology read from them."""
    allowed: list[int] = []
    system = root / "sys/devices/system"
    for line in (FOLDER / f"{name}.txt").read_text().splitlines():
        key, *words = line.split()
        if key == "thread_siblings_list":
            for siblings in words:
                for cpu in parse_list(siblings):
                    write_file(system / f"cpu/cpu{cpu}/topology/thread_siblings_list", siblings + "\n")
        elif key.startswith("node") and words[0] == "cpulist":
            write_file(system / "node" / key / "cpulist", "".join(words[1:]) + "\n")
        elif key.startswith("node"):
            number, size = key[4:], words[1]
            write_file(
                system / "node" / key / "meminfo",
                f"Node {number} MemTotal: {size} kB\nNode {number} MemFree: 1 kB\n",
            )
        elif key == "Cpus_allowed_list":
            allowed = parse_list(words[0])
        elif key == "Mems_allowed_list":
            write_file(root / "proc/self/status", f"Name:\tpython\nMems_allowed_list:\t{words[0]}\n")
        elif key == "cpu.max":
            write_file(root / "proc/self/cgroup", _CGROUP)
            write_file(root / "proc/self/mountinfo", _MOUNTINFO)
            write_file(root / "sys/fs/cgroup/cpu.max", " ".join(words) + "\n")
        else:
            assert key == "#", line
    return read_topology(root, allowed)
