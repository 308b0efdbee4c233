"""Precisions: what they set in PyTorch, and the warning where the CPU lacks the instructions."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from bert_large.config.training import PRECISIONS
from bert_large.cpu import read_cpu_flags
from bert_large.engines import precision as precision_module
from bert_large.engines.precision import apply_precision
from bert_large.matmul import bf32_rounds_factors

AMX = "processor\t: 0\nflags\t\t: fpu avx512_bf16 amx_bf16 amx_tile\n\nprocessor\t: 1\nflags\t\t: fpu\n"
AVX_512_FP16 = "flags\t\t: fpu avx512f avx512_fp16\n"
ZEN_5 = "flags\t\t: fpu avx512f avx512_bf16 avx_vnni\n"
AVX_512 = "processor\t: 0\nflags\t\t: fpu avx512f avx512_vnni\n"


@pytest.fixture(autouse=True)
def matmul_precision() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


@pytest.fixture
def cpuinfo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file in place of /proc/cpuinfo, for tests to write."""
    path = tmp_path / "cpuinfo"
    monkeypatch.setattr(precision_module, "read_cpu_flags", lambda: read_cpu_flags(path))
    return path


def apply(name: str, caplog: pytest.LogCaptureFixture) -> tuple[str, list[str]]:
    """Apply a precision; return the line on it, and the warnings."""
    with caplog.at_level(logging.INFO, "bert_large"):
        apply_precision(name)
    lines: dict[bool, list[str]] = {False: [], True: []}
    for record in caplog.records:
        lines[record.levelno == logging.WARNING].append(record.getMessage())
    (line,) = lines[False]
    return line, lines[True]


@pytest.mark.parametrize(("name", "flags"), [("bf16", "amx_bf16, avx512_bf16"), ("fp16", "amx_fp16, avx512_fp16")])
def test_emulation_is_warned_of(name: str, flags: str, cpuinfo: Path, caplog: pytest.LogCaptureFixture) -> None:
    """PyTorch reports bf16 as supported where it is emulated, which is many times slower."""
    cpuinfo.write_text(AVX_512)
    line, (warning,) = apply(name, caplog)
    assert "(emulated)" in line
    assert flags in warning and "PRECISION=fp32" in warning


@pytest.mark.parametrize(
    ("name", "flags", "expected"),
    [
        ("bf16", AMX, "bf16 matrix products with amx_bf16, avx512_bf16, fp32 master weights"),
        ("bf16", ZEN_5, "bf16 matrix products with avx512_bf16, fp32 master weights"),
        ("fp16", AVX_512_FP16, "fp16 matrix products with avx512_fp16, fp32 master weights, dynamic loss scaling"),
        ("fp32", AVX_512, "fp32 throughout"),
    ],
)
def test_no_warning_where_the_cpu_has_instructions(
    name: str,
    flags: str,
    expected: str,
    cpuinfo: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(precision_module, "half_product_ratio", lambda: 1.5)
    cpuinfo.write_text(flags)
    line, warnings = apply(name, caplog)
    assert expected in line and not warnings


def test_slow_products_in_spite_of_instructions_are_warned_of(
    cpuinfo: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with PyTorch 2.14, whose oneDNN does not use them."""
    monkeypatch.setattr(precision_module, "half_product_ratio", lambda: 1385.0)
    cpuinfo.write_text(AVX_512_FP16)
    _, (warning,) = apply("fp16", caplog)
    assert "1385 times" in warning and "PRECISION=bf16" in warning


def test_the_time_of_fp16_products_is_measured() -> None:
    """The ratio of two positive times: no more can be said of any CPU."""
    assert 0 < precision_module.half_product_ratio() < 1e6


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("rows", "inner", "columns"), [(1, 1, 1), (3, 65, 7), (64, 128, 33), (129, 256, 64)])
def test_fp16_products_are_right(rows: int, inner: int, columns: int, transposed: bool) -> None:
    """Within the rounding of their results, as autocast computes them."""
    factors = [torch.randn(rows, inner), torch.randn(columns, inner).t() if transposed else torch.randn(inner, columns)]
    expected = factors[0].half().double() @ factors[1].half().double()
    with precision_module.get_precision("fp16").autocast():
        found = factors[0] @ factors[1]
    assert found.dtype == torch.float16
    bound = 2**-10 * (factors[0].double().abs() @ factors[1].double().abs())
    assert bool(((found.double() - expected).abs() <= bound + 2**-24).all())


@pytest.mark.parametrize("rounds", [False, True])
def test_bf32_is_described_as_it_computes(
    rounds: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Not as the CPU's flags suggest: with avx512_bf16 alone, products stay fp32."""
    monkeypatch.setattr(precision_module, "bf32_rounds_factors", lambda: rounds)
    line, warnings = apply("bf32", caplog)
    assert ("bf16 factors" in line) == rounds and ("fp32 throughout" in line) != rounds
    assert len(warnings) == (0 if rounds else 1)
    assert all("amx_bf16" in warning and "PRECISION=fp32" in warning for warning in warnings)


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


def test_bf32_products() -> None:
    """The forms of product that the native engine uses are of bf16 factors, or all of fp32 factors.

    The probe decides which. The distance between the two results is bf16's rounding, at most 2^-9 / sqrt(3) per factor:
    0.23% for normal factors here.
    """
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.randn(64, 64, generator=generator) for _ in range(2))
    exact, rounded = one.double() @ other.double(), one.bfloat16().double() @ other.bfloat16().double()
    apply_precision("bf32")
    products = {
        "mm": torch.mm(one, other),
        "mm of a transposed factor": torch.mm(one, other.t().contiguous().t()),
        "mm into a tensor": torch.mm(one, other, out=torch.empty(64, 64)),
    }
    if not torch.__version__.startswith(("2.7.", "2.8.")):  # in these, only mm has bf32
        products["addmm_ of a transposed factor"] = torch.zeros(64, 64).addmm_(one.t().contiguous().t(), other)
    near, far = (rounded, exact) if bf32_rounds_factors() else (exact, rounded)
    for form, product in products.items():
        assert product.dtype == torch.float32, form
        assert _distance(product, near) < 1e-6, form
        assert 1e-3 < _distance(product, far) < 4e-3, form


def test_the_probe_of_bf32(monkeypatch: pytest.MonkeyPatch) -> None:
    """It sees rounded factors, asks for them itself, and leaves PyTorch's setting as it was."""
    settings, mm = [], torch.mm

    def round_factors(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        settings.append(torch.get_float32_matmul_precision())
        return mm(one.bfloat16(), other.bfloat16()).float()

    before = torch.get_float32_matmul_precision()
    monkeypatch.setattr(torch, "mm", round_factors)
    assert bf32_rounds_factors()
    monkeypatch.setattr(torch, "mm", lambda one, other: mm(one.double(), other.double()).float())
    assert not bf32_rounds_factors()
    assert settings == ["medium"] and torch.get_float32_matmul_precision() == before


def _distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.double() - expected).norm() / expected.norm())
