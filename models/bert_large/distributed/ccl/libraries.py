"""oneCCL's libraries, which the extra `ccl` installs, and the environment variables that they read.

PyTorch is not imported: the launcher uses this module, too.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

_SEGMENT_BYTES = 1 << 26
"""What libfabric reserves in /dev/shm per rank."""
_SEGMENT = re.compile(r"([0-9]+):[0-9]+:[0-9]+")
"""Names of its files: the process, and two numbers."""
_SETTLED_SECONDS = 60
_SUMS_IN_ORDER = "recursive_doubling:0-16384;ring:16385-max"
"""Algorithms of sums by size in bytes. oneCCL's own choice adds medium sizes in the order in which they arrive, which
gives other bits in every run."""
_INFINIBAND = Path("/sys/class/infiniband")
_SHARED_MEMORY = Path("/dev/shm")


class OneCclMissingError(Exception):
    """oneCCL's libraries are not installed, or are of a release without the files that are needed."""


@dataclass(frozen=True)
class OneCcl:
    """The files of an installation."""

    version: str
    library: Path
    """libccl.so.1"""
    include: Path
    """Folder with `oneapi/ccl.hpp`."""
    fabric: Path
    """libfabric.so.1, which is loaded at run time; its providers are in the same folder."""


@functools.cache
def find_oneccl() -> OneCcl:
    """Return the installed oneCCL; raises `OneCclMissingError`.

    The wheels put their files into the `lib` and `include` folders of the environment. Where these are is in the
    packages' metadata.
    """
    library = _find_file("oneccl-cpu", "libccl.so.1")
    return OneCcl(
        version=metadata.version("oneccl-cpu"),
        library=library,
        include=_find_file("oneccl-cpu-devel", "ccl.hpp").parents[1],
        fabric=_find_file("impi-rt", "libfabric.so.1"),
    )


def has_oneccl() -> bool:
    """Return whether all of oneCCL's libraries are installed."""
    try:
        find_oneccl()
    except OneCclMissingError:
        return False
    return True


def _find_file(package: str, name: str) -> Path:
    try:
        distribution = metadata.distribution(package)
    except metadata.PackageNotFoundError:
        raise OneCclMissingError(f"No module named {package}") from None
    for file in distribution.files or ():
        path = Path(str(distribution.locate_file(file)))
        if file.name == name and path.is_file():
            return path.resolve()
    raise OneCclMissingError(f"{package} {distribution.version} has no {name}")


def worker_variables(
    environment: Mapping[str, str], *, local_rank: int, local_ranks: int, cpus: Sequence[int]
) -> dict[str, str]:
    """Return the variables of oneCCL's workers under torchrun, except those that are set already.

    `cpus` are the CPUs of this rank. The worker shares the last of them with computation, unless the launcher has set
    cores aside. By default it would wait in a loop and take half of that core: `CCL_YIELD=sleep` is 4 to 15 times
    faster there. oneCCL expects the workers' CPUs of all ranks of the host in one list, but each rank reads its own
    entries only, so that all entries are the same here.
    """
    cpu = cpus[-1 - local_rank % len(cpus)]  # ranks that are not bound have the same CPUs
    workers = environment.get("CCL_WORKER_COUNT") or "1"
    variables = {
        "CCL_PROCESS_LAUNCHER": "none",
        "CCL_LOCAL_RANK": str(local_rank),
        "CCL_LOCAL_SIZE": str(local_ranks),
        "CCL_WORKER_COUNT": workers,
        "CCL_WORKER_AFFINITY": ",".join([str(cpu)] * (local_ranks * int(workers))) if workers.isdigit() else "auto",
        "CCL_YIELD": "sleep",
    }
    return {name: value for name, value in variables.items() if not environment.get(name)}


def transport_variables(
    oneccl: OneCcl, environment: Mapping[str, str], *, local_ranks: int, one_host: bool
) -> dict[str, str]:
    """Return the variables of the transport between ranks, except those that are set already.

    libfabric connects the ranks: over TCP on the interface of gloo, or over a provider of its choice if the host has
    RDMA devices. If all ranks are on one host, they exchange data in shared memory, provided that it has room for the
    segments of all. With several hosts, oneCCL 2021.16 took the ranks of all for its own and could not start.
    """
    variables = {
        "CCL_ATL_TRANSPORT": "ofi",
        "CCL_OFI_LIBRARY_PATH": str(oneccl.fabric),
        "FI_PROVIDER_PATH": str(oneccl.fabric.parent),
        "CCL_ATL_SHM": "1" if one_host and _free_shared_bytes() > local_ranks * _SEGMENT_BYTES else "0",
        "CCL_ALLREDUCE": _SUMS_IN_ORDER,
        "CCL_LOG_LEVEL": "error",
    }
    if not _has_rdma():
        variables["FI_PROVIDER"] = "tcp"
    interface = environment.get("GLOO_SOCKET_IFNAME", "").partition(",")[0]
    if interface:
        variables |= {"FI_TCP_IFACE": interface, "CCL_KVS_IFACE": interface}
    return {name: value for name, value in variables.items() if not environment.get(name)}


def describe_transport(oneccl: OneCcl, environment: Mapping[str, str]) -> str:
    """Return the version, transport, provider and workers that the environment variables of a rank set."""
    provider = environment.get("FI_PROVIDER") or "of libfabric's choice"
    shared = "shared memory within a host" if environment.get("CCL_ATL_SHM") == "1" else "no shared memory"
    worker = environment.get("CCL_WORKER_AFFINITY", "").partition(",")[0]
    return (
        f"oneCCL {oneccl.version}, transport {environment.get('CCL_ATL_TRANSPORT')}, provider {provider}, {shared}; "
        f"rank 0's first worker on CPU {worker}, which waits with {environment.get('CCL_YIELD')}"
    )


def _has_rdma() -> bool:
    return _INFINIBAND.is_dir() and any(_INFINIBAND.iterdir())


def _free_shared_bytes() -> int:
    try:
        return shutil.disk_usage(_SHARED_MEMORY).free
    except OSError:
        return 0


def remove_stale_segments(folder: Path = _SHARED_MEMORY) -> None:
    """Remove what killed ranks have left in shared memory: files of this user whose process does not exist.

    Files that are younger than a minute are kept. Their process may exist in another namespace, where its peers have
    not opened them yet; an open file survives its removal.
    """
    for path in folder.glob("*:*:*"):
        name = _SEGMENT.fullmatch(path.name)
        with contextlib.suppress(OSError):
            status = path.stat()
            is_old = time.time() - status.st_mtime > _SETTLED_SECONDS
            if name and is_old and status.st_uid == os.getuid() and not Path(f"/proc/{name[1]}").exists():
                path.unlink()
