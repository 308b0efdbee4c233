"""An engine is chosen once, by name, and says which it is and why."""

from __future__ import annotations

import pytest
from bert_large.engines import resolve_engine
from bert_large.engines.eager import EagerEngine
from bert_large.engines.native import NativeEngine
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
    with pytest.raises(InputError, match=r"--engine is 'turbo', expected one of auto, eager, native"):
        resolve_engine("turbo", "fp32")


def test_fp16_is_the_eager_engines() -> None:
    """The choice says why; the engine that lacks the kernels is refused, never replaced, when it is asked for."""
    engine, line = resolve_engine("auto", "fp16")
    assert isinstance(engine, EagerEngine)
    assert line == "engine eager: plain PyTorch (auto: the native engine has no kernels for fp16)"
    with pytest.raises(InputError, match="--engine is 'native', which has no kernels for --precision fp16; use"):
        resolve_engine("native", "fp16")
