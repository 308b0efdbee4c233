"""The software versions and the memory of this process."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import bert_large
from bert_large.cpu import read_cpu_model


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
