"""Precisions: what they set, and the warning where the CPU lacks the instructions."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from bert_large.config import PRECISIONS
from bert_large.engines import precision as precision_module
from bert_large.engines.precision import apply_precision, read_cpu_flags

AMX = "processor\t: 0\nflags\t\t: fpu avx512_bf16 amx_bf16 amx_tile\n\nprocessor\t: 1\nflags\t\t: fpu\n"
AVX_512 = "processor\t: 0\nflags\t\t: fpu avx512f avx512_vnni\n"


@pytest.fixture(autouse=True)
def matmul_precision() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


@pytest.fixture
def cpuinfo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that stands for /proc/cpuinfo; tests write it."""
    path = tmp_path / "cpuinfo"
    monkeypatch.setattr(precision_module, "read_cpu_flags", lambda: read_cpu_flags(path))
    return path


def test_flags_are_the_first_cpus(tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(AMX)
    assert read_cpu_flags(path) == {"fpu", "avx512_bf16", "amx_bf16", "amx_tile"}
    path.write_text("model name: Apple\n")
    assert read_cpu_flags(path) == frozenset()
    assert read_cpu_flags(tmp_path / "none") == frozenset()


@pytest.mark.parametrize("name", ["bf16", "bf32"])
def test_emulation_is_warned_of(name: str, cpuinfo: Path, caplog: pytest.LogCaptureFixture) -> None:
    """PyTorch says bf16 is supported where it is emulated many times slower; users must not be left to find out."""
    cpuinfo.write_text(AVX_512)
    with caplog.at_level(logging.INFO, "bert_large"):
        apply_precision(name)
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warning.startswith("warning: this CPU has none of the bf16 instructions (amx_bf16, avx512_bf16)")
    assert f"{name} is emulated" in warning and "use PRECISION=fp32" in warning


@pytest.mark.parametrize(
    ("name", "flags", "said"),
    [("bf16", AMX, "bf16 matrix products with amx_bf16, avx512_bf16"), ("fp32", AVX_512, "fp32 throughout")],
)
def test_no_warning_where_there_is_nothing_to_warn_of(
    name: str, flags: str, said: str, cpuinfo: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cpuinfo.write_text(flags)
    with caplog.at_level(logging.INFO, "bert_large"):
        apply_precision(name)
    (record,) = caplog.records
    assert record.levelno == logging.INFO and said in record.getMessage()


@pytest.mark.parametrize("name", PRECISIONS)
def test_what_a_precision_computes_in(name: str) -> None:
    """bf16 casts the operands of products; bf32 keeps fp32 tensors and lets oneDNN round; the others do neither."""
    one = torch.ones(4, 4)
    applied = apply_precision(name)
    with applied.autocast():
        assert (one @ one).dtype == (torch.bfloat16 if name == "bf16" else torch.float32)
    assert torch.get_float32_matmul_precision() == ("medium" if name == "bf32" else "highest")
