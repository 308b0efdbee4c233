"""Properties that all ranks of a run must share: a rank with other code, settings or data is refused at the start."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import bert_large
from bert_large.config.differences import differences
from bert_large.errors import InputError

_SOURCE_SUFFIXES = {".py", ".cpp", ".h", ".yaml"}


def software() -> dict[str, str]:
    """Return versions and a digest that identify the program that this rank runs."""
    return {"bert-large": bert_large.__version__, "source code": digest_of_source(), "torch": torch.__version__}


def digest_of_source(folder: Path = Path(bert_large.__file__).parent) -> str:
    """Return a digest of the names and contents of the package's source files."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix in _SOURCE_SUFFIXES:
            content = path.read_bytes()
            digest.update(f"{path.relative_to(folder)}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:16]


def require_agreement(values: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
    """Raise `InputError` unless all ranks have the same values as the first.

    `names` are the names of the ranks. The error lists each rank that differs, with both values of each difference.
    """
    problems = []
    for name, rank_values in zip(names, values, strict=True):
        found = differences(values[0], rank_values)
        if found:
            listed = ", ".join(f"{key} is {other}, on {names[0]} {first}" for key, (first, other) in found.items())
            problems.append(f"{name}: {listed}")
    if problems:
        raise InputError(
            f"the ranks differ. {'; '.join(problems)}. Start all of them with the same code, settings and data"
        )
