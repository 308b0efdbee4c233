"""Which memory allocator serves this process."""

from __future__ import annotations

from pathlib import Path


def describe_allocator(maps: Path = Path("/proc/self/maps")) -> str:
    """Return one line that names the allocator: a library loaded in place of the C library's, or the C library's."""
    try:
        lines = maps.read_text().splitlines()
    except OSError:
        return "memory allocator: unknown"
    paths = (Path(line.split(maxsplit=5)[5]) for line in lines if "/" in line)
    for path in paths:
        for name in ("tcmalloc", "jemalloc", "mimalloc"):
            if path.name.startswith(f"lib{name}"):
                return f"memory allocator: {name} ({path})"
    return "memory allocator: the C library's"
