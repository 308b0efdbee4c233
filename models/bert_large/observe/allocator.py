"""The memory allocator of this process."""

from __future__ import annotations

from pathlib import Path

_REPLACEMENTS = ("tcmalloc", "jemalloc", "mimalloc")


def describe_allocator(maps: Path = Path("/proc/self/maps")) -> str:
    """Return one line that names the allocator: a library loaded in place of the C library's, or the C library's."""
    try:
        lines = maps.read_text().splitlines()
    except OSError:
        return "memory allocator: unknown"
    for path in (Path(line.split(maxsplit=5)[5]) for line in lines if "/" in line):
        for name in _REPLACEMENTS:
            if path.name.startswith(f"lib{name}"):
                return f"memory allocator: {name} ({path})"
    return "memory allocator: the C library's"
