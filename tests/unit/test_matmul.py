"""Float32 products by the faster library: in full precision, in the block only, and not against the user's choice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from bert_large import matmul
from bert_large.cpu import read_cpu_vendor
from bert_large.matmul import fastest_float32


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Detect the CPU again, before and after each test."""
    before = torch.get_float32_matmul_precision()
    matmul._prefers_onednn.cache_clear()
    yield
    matmul._prefers_onednn.cache_clear()
    torch.set_float32_matmul_precision(before)


def pretend(monkeypatch: pytest.MonkeyPatch, vendor: str, *, rounds: bool) -> None:
    monkeypatch.setattr(matmul, "read_cpu_vendor", lambda: vendor)
    monkeypatch.setattr(matmul, "read_cpu_flags", lambda: frozenset({"avx512f"}))
    monkeypatch.setattr(matmul, "bf32_rounds_factors", lambda: rounds)


@pytest.mark.parametrize(
    ("vendor", "rounds", "user", "expected"),
    [
        ("AuthenticAMD", False, "highest", "medium"),
        ("AuthenticAMD", True, "highest", "highest"),
        ("GenuineIntel", False, "highest", "highest"),
        ("AuthenticAMD", False, "high", "high"),
        ("AuthenticAMD", False, "medium", "medium"),
    ],
)
def test_the_setting(vendor: str, rounds: bool, user: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The setting of the block, in which products may go to oneDNN only if it does not round their factors."""
    pretend(monkeypatch, vendor, rounds=rounds)
    torch.set_float32_matmul_precision(user)
    with fastest_float32():
        assert torch.get_float32_matmul_precision() == expected
    assert torch.get_float32_matmul_precision() == user


def test_a_choice_does_not_outlast_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's precision during the first call has no effect on later ones."""
    pretend(monkeypatch, "AuthenticAMD", rounds=False)
    for user, expected in (("high", "high"), ("highest", "medium")):
        torch.set_float32_matmul_precision(user)
        with fastest_float32():
            assert torch.get_float32_matmul_precision() == expected


@pytest.mark.parametrize(("rows", "inner", "columns"), [(1, 40, 30), (67, 129, 80), (256, 512, 64)])
def test_products_have_full_precision(rows: int, inner: int, columns: int) -> None:
    """On this CPU, whatever it is; also of transposed factors, added to the result, and into columns of a matrix."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(*shape, generator=generator) for shape in ((rows, inner), (columns, inner)))
    expected = left.double() @ right.double().T
    out = torch.zeros(rows, 2 * columns)
    with fastest_float32():
        torch.mm(left, right.t(), out=out[:, columns:])
        total = torch.ones(columns, rows).addmm_(right, left.t())
    limit = 1e-6 * float(expected.norm())
    assert float((out[:, columns:].double() - expected).norm()) < limit
    assert float((total.double() - 1 - expected.T).norm()) < limit + 1e-6 * total.numel()
    assert not out[:, :columns].any()


def test_vendor(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nvendor_id\t: AuthenticAMD\n")
    assert read_cpu_vendor(tmp_path / "cpuinfo") == "AuthenticAMD"
    assert read_cpu_vendor(tmp_path / "missing") == ""
