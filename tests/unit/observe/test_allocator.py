"""The name of a process's memory allocator."""

from __future__ import annotations

from pathlib import Path

import pytest
from bert_large.observe.machine import describe_allocator

LINE = "7f2c1c000000-7f2c1c021000 r-xp 00000000 08:01 1234                       {}\n"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/usr/lib/libtcmalloc_minimal.so.4.5.10", "tcmalloc (/usr/lib/libtcmalloc_minimal.so.4.5.10)"),
        ("/opt/my libs/libjemalloc.so.2", "jemalloc (/opt/my libs/libjemalloc.so.2)"),
        ("/home/tcmalloc/libc.so.6", "the C library's"),
    ],
)
def test_allocator(tmp_path: Path, path: str, expected: str) -> None:
    maps = tmp_path / "maps"
    maps.write_text(
        "7ffd5a000000-7ffd5a021000 rw-p 00000000 00:00 0\n" + LINE.format("/bin/python3") + LINE.format(path)
    )
    assert describe_allocator(maps) == f"memory allocator: {expected}"


def test_this_process_has_one() -> None:
    assert describe_allocator().startswith("memory allocator: ") and "unknown" not in describe_allocator()


def test_a_system_that_does_not_report_it(tmp_path: Path) -> None:
    assert describe_allocator(tmp_path / "maps") == "memory allocator: unknown"
