"""Engines: interchangeable implementations of the model's operations, chosen once at start."""

from __future__ import annotations

import torch

from bert_large.cpp_library import LibraryBuildError
from bert_large.engines import ipex
from bert_large.engines.eager import EagerEngine
from bert_large.engines.native import NativeEngine
from bert_large.engines.native.build import load_kernels
from bert_large.engines.precision import get_precision
from bert_large.errors import InputError
from bert_large.model.operations import Operations

ENGINES = ("eager", "native", "ipex")
_DTYPES = {"native": NativeEngine.dtypes, "ipex": ipex.DTYPES}
"""Types of activations that an engine has kernels for; eager has them for every type."""


def available_engines() -> tuple[str, ...]:
    """Return the engines that can be used here: IPEX only where it is installed and fits the installed PyTorch."""
    return tuple(name for name in ENGINES if name != "ipex" or ipex.find_fault() is None)


def check_engine(name: str, precision: str) -> None:
    """Raise `InputError` for an unknown engine, or one that cannot compute here or in a precision."""
    if name not in ("auto", *ENGINES):
        raise InputError(f"--engine is {name!r}, expected one of auto, {', '.join(ENGINES)}")
    if name != "auto" and not computes(name, precision):
        raise InputError(
            f"--engine is {name!r}, which has no kernels for --precision {precision}; "
            "use --engine auto or eager, or --precision bf16"
        )
    fault = ipex.find_fault() if name == "ipex" else None
    if fault is not None:
        raise InputError(f"--engine is 'ipex': {fault}")


def resolve_engine(name: str, precision: str = "fp32") -> tuple[Operations, str]:
    """Return the engine of a name (auto: the fastest for the precision), and a line that says which it is and why."""
    check_engine(name, precision)
    name, reason = _choose(precision) if name == "auto" else (name, "as asked")
    engine, description = _make(name, precision)
    return engine, f"engine {name}: {description} ({reason})"


def _choose(precision: str) -> tuple[str, str]:
    """Return the name of the fastest engine for a precision, and the reason.

    That is native, whose kernels are compiled now if necessary. Where they cannot be, it is IPEX if that is installed.
    It is never eager instead: a run that is many times slower than expected is worse than an error that says what is
    missing.
    """
    if not computes("native", precision):
        return "eager", f"auto: the native engine has no kernels for {precision}"
    try:
        load_kernels()
    except LibraryBuildError as error:
        if ipex.find_fault() is not None:
            raise
        return "ipex", f"auto: the faster native engine is not available: {error}"
    return "native", "auto: the fastest in every benchmark, see benchmarks/"


def _make(name: str, precision: str) -> tuple[Operations, str]:
    """Return the engine of a name and its description."""
    if name == "ipex":
        return ipex.make_engine(get_precision(precision))
    if name == "eager":
        return EagerEngine(), "plain PyTorch"
    engine = NativeEngine()
    is_bf16 = get_precision(precision).activation_dtype == torch.bfloat16
    products = f", matrix products on {'AMX tiles' if engine.uses_tiles else 'vectors'}" if is_bf16 else ""
    return engine, f"C++ kernels for {engine.instructions}{products}"


def computes(name: str, precision: str) -> bool:
    """Return whether an engine has kernels for a precision."""
    return name not in _DTYPES or get_precision(precision).activation_dtype in _DTYPES[name]
