"""Engines: interchangeable implementations of the model's operations, chosen once at start."""

from __future__ import annotations

from bert_large.engines.eager import EagerEngine
from bert_large.engines.native import NativeEngine
from bert_large.errors import InputError
from bert_large.model.operations import Operations

ENGINES = ("eager", "native")


def check_engine(name: str) -> None:
    """Refuse a name that `resolve_engine` does not know."""
    if name not in ("auto", *ENGINES):
        raise InputError(f"--engine is {name!r}, expected one of auto, {', '.join(ENGINES)}")


def resolve_engine(name: str) -> tuple[Operations, str]:
    """Return the engine of a name and one line that says which it is and why; `auto` picks the fastest there is."""
    check_engine(name)
    reason = "as asked"
    if name == "auto":
        name, reason = "native", "auto: the fastest in every benchmark"
    if name == "eager":
        return EagerEngine(), f"engine eager: plain PyTorch ({reason})"
    engine = NativeEngine()
    return engine, f"engine native: C++ kernels for {engine.instructions} ({reason})"
