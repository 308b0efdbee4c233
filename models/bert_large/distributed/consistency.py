"""What all ranks of a run must have alike, so that one with other code, settings or data is refused at the start."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import bert_large
from bert_large.errors import InputError

_SOURCE_SUFFIXES = {".py", ".cpp", ".h", ".yaml"}


def software() -> dict[str, str]:
    """Return what identifies the program that this rank runs."""
    return {"bert-large": bert_large.__version__, "source code": digest_of_source(), "torch": torch.__version__}


def digest_of_source(folder: Path = Path(bert_large.__file__).parent) -> str:
    """Return a digest of the package's own files, names and contents."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix in _SOURCE_SUFFIXES:
            content = path.read_bytes()
            digest.update(f"{path.relative_to(folder)}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:16]


def require_agreement(values: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
    """Refuse to start unless every rank has the same values as rank 0; `names` are the ranks', for the message.

    Raises `InputError` that names each rank that differs, and each value of both.
    """
    problems = []
    for rank, its in enumerate(values):
        differences = [
            f"{name} is {its.get(name)} there, {values[0].get(name)} on rank 0"
            for name in sorted({*its, *values[0]})
            if its.get(name) != values[0].get(name)
        ]
        if differences:
            problems.append(f"{names[rank]}: {', '.join(differences)}")
    if problems:
        raise InputError(
            f"not all ranks are alike. {'; '.join(problems)}. Start all with the same code, settings and data as "
            f"{names[0]}"
        )
