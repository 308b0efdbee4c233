"""Engines: interchangeable implementations of the model's operations, chosen once at start."""

from __future__ import annotations

from bert_large.engines.eager import EagerEngine
from bert_large.errors import InputError
from bert_large.model.operations import Operations

ENGINES = {"eager": EagerEngine}


def resolve_engine(name: str) -> tuple[Operations, str]:
    """Return the engine of a name and one line that says which it is and why; `auto` picks the fastest there is."""
    if name == "auto":
        return EagerEngine(), "engine eager: plain PyTorch (auto: the only engine of this version)"
    if name in ENGINES:
        return ENGINES[name](), f"engine {name}: as asked"
    raise InputError(f"--engine is {name!r}, expected one of auto, {', '.join(ENGINES)}")
