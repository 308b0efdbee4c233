"""The engine of a model of `transformers`: this package's kernels, or the model's own PyTorch code."""

from __future__ import annotations

from typing import Any

import bert_large
from bert_large.cpp_library import LibraryBuildError
from bert_large.engines import computes
from bert_large.errors import InputError


def apply_engine(model: Any, name: str, precision: str) -> str:
    """Accelerate a model in place unless `name` is eager; return a line that says which engine it has, and why.

    The name is native, eager or auto; auto keeps the model's own code where there are no kernels for it. Raises
    `InputError` if the engine is native and has no kernels for this model or precision.
    """
    if name == "eager":
        return "engine eager: the model's own PyTorch code (as asked)"
    reason = ""
    if not computes("native", precision):
        reason = f"the native engine has no kernels for {precision}"
    else:
        try:
            bert_large.accelerate(model)
        except (InputError, TypeError, LibraryBuildError) as error:
            reason = str(error)
    if not reason:
        return f"engine native: C++ kernels ({'as asked' if name == 'native' else 'auto: the fastest'})"
    if name == "native":
        raise InputError(f"--engine is 'native': {reason}; use --engine auto or eager")
    return f"engine eager: the model's own PyTorch code (auto: {reason})"
