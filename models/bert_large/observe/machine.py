"""The software, the memory and the container of this process."""

from __future__ import annotations

import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import bert_large
from bert_large.cpu import read_cpu_model

_ALLOCATORS = ("tcmalloc", "jemalloc", "mimalloc")
"""Libraries that are loaded in place of the C library's allocator."""


def describe_software() -> dict[str, Any]:
    """Return the CPU and the versions that a measurement depends on; part of the results of every benchmark."""
    return {
        "cpu": read_cpu_model(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "bert_large": bert_large.__version__,
    }


def package_version(package: str) -> str | None:
    """Return the version of an installed package, None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def peak_memory_bytes(status: Path = Path("/proc/self/status")) -> int:
    """Return the peak resident memory of this process.

    `ru_maxrss` is not used: a process inherits it from its parent, which may have been larger.
    """
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status.read_text(), re.MULTILINE)
    if found is None:
        raise OSError(f"{status} has no line VmHWM: the kernel does not report the peak memory of this process")
    return int(found[1]) * 1024


def describe_allocator(maps: Path = Path("/proc/self/maps")) -> str:
    """Return one line that names the allocator: a library loaded in place of the C library's, or the C library's."""
    try:
        lines = maps.read_text().splitlines()
    except OSError:
        return "memory allocator: unknown"
    for path in (Path(line.split(maxsplit=5)[5]) for line in lines if "/" in line):
        for name in _ALLOCATORS:
            if path.name.startswith(f"lib{name}"):
                return f"memory allocator: {name} ({path})"
    return "memory allocator: the C library's"


def describe_base_image(note: Path = Path(sys.prefix, "base_image.txt")) -> str | None:
    """Return one line that lists what the base image contains and lacks; None outside the images of docker/."""
    return f"base image: {note.read_text(encoding='utf-8').strip()}" if note.is_file() else None
