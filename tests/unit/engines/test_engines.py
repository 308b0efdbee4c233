"""An engine is chosen once, by name, and says which it is and why."""

from __future__ import annotations

import pytest
from bert_large import engines
from bert_large.engines import resolve_engine
from bert_large.engines.eager import EagerEngine
from bert_large.engines.native import NativeEngine
from bert_large.engines.native.build import KernelBuildError
from bert_large.errors import InputError


@pytest.mark.parametrize(
    ("name", "kind", "reason"),
    [("eager", EagerEngine, "as asked"), ("native", NativeEngine, "as asked"), ("auto", NativeEngine, "auto")],
)
def test_known_engines(name: str, kind: type, reason: str) -> None:
    engine, line = resolve_engine(name, "bf16")
    assert isinstance(engine, kind)
    assert line.startswith(f"engine {engine.name}: ") and reason in line


def test_unknown_engine_is_refused() -> None:
    """Never a silent fallback: the message lists what there is."""
    with pytest.raises(InputError, match=r"--engine is 'turbo', expected one of auto, eager, native, ipex"):
        resolve_engine("turbo", "fp32")


def test_fp16_is_the_eager_engines() -> None:
    """The choice says why."""
    engine, line = resolve_engine("auto", "fp16")
    assert isinstance(engine, EagerEngine)
    assert line == "engine eager: plain PyTorch (auto: the native engine has no kernels for fp16)"


def test_without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto` is IPEX where it is installed, and says why; elsewhere it is an error, and never eager."""
    error = KernelBuildError("no compiler; install one")

    def load() -> str:
        raise error

    monkeypatch.setattr(engines, "load_kernels", load)
    monkeypatch.setattr(engines.ipex, "find_fault", lambda: None)
    monkeypatch.setattr(engines.ipex, "make_engine", lambda precision: (EagerEngine("ipex"), "made in bf16"))
    engine, line = resolve_engine("auto", "bf16")
    assert engine.name == "ipex"
    expected = "(auto: the faster native engine cannot be had: no compiler; install one)"
    assert line == f"engine ipex: made in bf16 {expected}"
    assert resolve_engine("auto", "fp16")[0].name == "eager"
    monkeypatch.setattr(engines.ipex, "find_fault", lambda: "not installed")
    with pytest.raises(KernelBuildError) as caught:
        resolve_engine("auto", "bf16")
    assert caught.value is error
