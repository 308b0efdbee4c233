"""The choice of an engine, and the line that reports it."""

from __future__ import annotations

import pytest
from bert_large import engines
from bert_large.cpu import read_cpu_flags
from bert_large.engines import resolve_engine
from bert_large.engines.eager import EagerEngine
from bert_large.engines.native import NativeEngine
from bert_large.engines.native.build import LibraryBuildError
from bert_large.errors import InputError


@pytest.mark.parametrize(
    ("name", "kind", "reason"),
    [("eager", EagerEngine, "as asked"), ("native", NativeEngine, "as asked"), ("auto", NativeEngine, "auto")],
)
def test_known_engines(name: str, kind: type, reason: str) -> None:
    engine, line = resolve_engine(name, "bf16")
    assert isinstance(engine, kind)
    assert line.startswith(f"engine {engine.name}: ") and reason in line


def test_what_computes_bf16_products_is_said() -> None:
    """AMX needs the system's permission beside the CPU's flag."""
    engine, line = resolve_engine("native", "bf16")
    assert isinstance(engine, NativeEngine)
    assert ("on AMX tiles" if engine.uses_tiles else "on vectors") in line
    assert "amx_bf16" in read_cpu_flags() or not engine.uses_tiles
    assert "on vectors" not in resolve_engine("native", "fp32")[1]


def test_unknown_engine_is_refused() -> None:
    """The error lists the known ones."""
    with pytest.raises(InputError, match=r"turbo.* auto, eager, native, ipex"):
        resolve_engine("turbo", "fp32")


def test_fp16_is_computed_by_eager() -> None:
    engine, line = resolve_engine("auto", "fp16")
    assert isinstance(engine, EagerEngine)
    assert line.startswith("engine eager: ") and "auto" in line and "fp16" in line


def test_without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto` is IPEX where it is installed, with the reason; elsewhere it is an error, and never eager."""
    error = LibraryBuildError("no compiler; install one")

    def load() -> str:
        raise error

    monkeypatch.setattr(engines, "load_kernels", load)
    monkeypatch.setattr(engines.ipex, "find_fault", lambda: None)
    monkeypatch.setattr(engines.ipex, "make_engine", lambda precision: (EagerEngine("ipex"), "made in bf16"))
    engine, line = resolve_engine("auto", "bf16")
    assert engine.name == "ipex"
    assert line.startswith("engine ipex: made in bf16 (auto: ") and str(error) in line
    assert resolve_engine("auto", "fp16")[0].name == "eager"
    monkeypatch.setattr(engines.ipex, "find_fault", lambda: "not installed")
    with pytest.raises(LibraryBuildError) as caught:
        resolve_engine("auto", "bf16")
    assert caught.value is error
