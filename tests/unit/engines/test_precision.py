"""Precisions: what they set, and the warning where the CPU lacks the instructions."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from bert_large.config.training import PRECISIONS
from bert_large.engines import precision as precision_module
from bert_large.engines.precision import apply_precision, read_cpu_flags

AMX = "processor\t: 0\nflags\t\t: fpu avx512_bf16 amx_bf16 amx_tile\n\nprocessor\t: 1\nflags\t\t: fpu\n"
AVX_512_FP16 = "flags\t\t: fpu avx512f avx512_fp16\n"
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


@pytest.mark.parametrize(
    ("name", "instructions"),
    [
        ("bf16", "bf16 instructions (amx_bf16, avx512_bf16)"),
        ("bf32", "bf16 instructions (amx_bf16, avx512_bf16)"),
        ("fp16", "fp16 instructions (amx_fp16, avx512_fp16)"),
    ],
)
def test_emulation_is_warned_of(name: str, instructions: str, cpuinfo: Path, caplog: pytest.LogCaptureFixture) -> None:
    """PyTorch says bf16 is supported where it is emulated many times slower; users must not be left to find out."""
    cpuinfo.write_text(AVX_512)
    with caplog.at_level(logging.INFO, "bert_large"):
        apply_precision(name)
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warning.startswith(f"warning: this CPU has none of the {instructions}: ")
    assert f"{name} is emulated" in warning and "use PRECISION=fp32" in warning


@pytest.mark.parametrize(
    ("name", "flags", "said"),
    [
        ("bf16", AMX, "bf16 matrix products with amx_bf16, avx512_bf16, fp32 master weights"),
        ("fp16", AVX_512_FP16, "fp16 matrix products with avx512_fp16, fp32 master weights, dynamic loss scaling"),
        ("fp32", AVX_512, "fp32 throughout"),
    ],
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
    """bf16 and fp16 cast the operands of products; bf32 keeps fp32 tensors and lets oneDNN round; others do neither."""
    one = torch.ones(4, 4)
    applied = apply_precision(name)
    with applied.autocast():
        assert (one @ one).dtype == applied.activation_dtype
    expected = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(name, torch.float32)
    assert applied.activation_dtype == expected
    assert applied.scales_loss == (name == "fp16")
    assert torch.get_float32_matmul_precision() == ("medium" if name == "bf32" else "highest")


def test_bf32_rounds_the_factors_of_products() -> None:
    """The forms of product that the native engine uses, in fp32 tensors: equal to fp32 products of bf16 factors.

    Their distance from fp32's is bf16's rounding, 2^-9 / sqrt(3) a factor at most: 0.23% for normal ones here.
    """
    if not torch.backends.mkldnn.is_available() or not {"avx512_bf16", "amx_bf16"} & read_cpu_flags():
        pytest.skip("oneDNN has no bf16 products on this CPU")
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.randn(64, 64, generator=generator) for _ in range(2))
    exact, rounded = one.double() @ other.double(), one.bfloat16().double() @ other.bfloat16().double()
    apply_precision("bf32")
    products = {
        "mm": torch.mm(one, other),
        "mm of a transposed factor": torch.mm(one, other.t().contiguous().t()),
        "mm into a tensor": torch.mm(one, other, out=torch.empty(64, 64)),
    }
    if not torch.__version__.startswith(("2.7.", "2.8.")):  # there bf32 is mm's alone
        products["addmm_ of a transposed factor"] = torch.zeros(64, 64).addmm_(one.t().contiguous().t(), other)
    for form, product in products.items():
        assert product.dtype == torch.float32, form
        assert _distance(product, rounded) < 1e-6, form
        assert 1e-3 < _distance(product, exact) < 4e-3, form


def _distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.double() - expected).norm() / expected.norm())
