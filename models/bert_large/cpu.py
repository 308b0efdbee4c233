"""The CPU as the system describes it."""

from __future__ import annotations

import platform
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")


def read_cpu_flags(cpuinfo: Path = _CPUINFO) -> frozenset[str]:
    """Return the instruction-set flags of the first CPU, or an empty set if the system does not list them."""
    return frozenset(_read_first("flags", cpuinfo).split())


def read_cpu_model(cpuinfo: Path = _CPUINFO) -> str:
    """Return the name of the first CPU, or the architecture if the system does not report a name."""
    return _read_first("model name", cpuinfo) or platform.machine()


def read_cpu_vendor(cpuinfo: Path = _CPUINFO) -> str:
    """Return the vendor of the first CPU, such as GenuineIntel, or an empty string if the system does not report it."""
    return _read_first("vendor_id", cpuinfo)


def _read_first(field: str, cpuinfo: Path) -> str:
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(field)), "")
