"""The name and the flags of the CPU."""

from __future__ import annotations

import platform
from pathlib import Path

from bert_large.cpu import read_cpu_flags, read_cpu_model

CPUINFO = """\
processor\t: 0
model name\t: Intel(R) Xeon(R) Platinum 8480+ CPU @ 2.00GHz
flags\t\t: fpu avx2 amx_bf16
processor\t: 1
model name\t: another
"""


def test_the_first_cpu_is_read(tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(CPUINFO)
    assert read_cpu_model(path) == "Intel(R) Xeon(R) Platinum 8480+ CPU @ 2.00GHz"
    assert read_cpu_flags(path) == {"fpu", "avx2", "amx_bf16"}


def test_a_system_that_does_not_report_it(tmp_path: Path) -> None:
    assert read_cpu_model(tmp_path / "cpuinfo") == platform.machine()
    assert read_cpu_flags(tmp_path / "cpuinfo") == frozenset()
