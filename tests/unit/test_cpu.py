"""The CPU as /proc/cpuinfo describes it."""

from __future__ import annotations

from pathlib import Path

import pytest
from bert_large.cpu import read_cpu_flags

TWO = "processor\t: 0\nflags\t\t: fpu avx512_bf16 amx_tile\n\nprocessor\t: 1\nflags\t\t: fpu\n"


@pytest.mark.parametrize(
    ("text", "flags"), [(TWO, {"fpu", "avx512_bf16", "amx_tile"}), ("model name: Apple\n", set()), (None, set())]
)
def test_flags_are_the_first_cpus(text: str | None, flags: set[str], tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "cpuinfo").write_text(text)
    assert read_cpu_flags(tmp_path / "cpuinfo") == flags
