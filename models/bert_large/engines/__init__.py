"""Engines: interchangeable implementations of the model's operations, chosen once at start."""

from __future__ import annotations

from bert_large.engines.eager import EagerEngine
from bert_large.engines.native import NativeEngine
from bert_large.engines.precision import get_precision
from bert_large.errors import InputError
from bert_large.model.operations import Operations

ENGINES = ("eager", "native")


def check_engine(name: str, precision: str) -> None:
    """Refuse what `resolve_engine` does not know, and an engine that cannot compute in a precision."""
    if name not in ("auto", *ENGINES):
        raise InputError(f"--engine is {name!r}, expected one of auto, {', '.join(ENGINES)}")
    if name == "native" and not _has_native_kernels(precision):
        raise InputError(
            f"--engine is 'native', which has no kernels for --precision {precision}; "
            "use --engine auto or eager, or --precision bf16"
        )


def resolve_engine(name: str, precision: str = "fp32") -> tuple[Operations, str]:
    """Return the engine of a name and one line that says which it is and why.

    `auto` picks the fastest there is for a precision that `config.PRECISIONS` names.
    """
    check_engine(name, precision)
    reason = "as asked"
    if name == "auto" and not _has_native_kernels(precision):
        name, reason = "eager", f"auto: the native engine has no kernels for {precision}"
    elif name == "auto":
        name, reason = "native", "auto: the fastest in every benchmark"
    if name == "eager":
        return EagerEngine(), f"engine eager: plain PyTorch ({reason})"
    engine = NativeEngine()
    return engine, f"engine native: C++ kernels for {engine.instructions} ({reason})"


def _has_native_kernels(precision: str) -> bool:
    return get_precision(precision).activation_dtype in NativeEngine.dtypes
