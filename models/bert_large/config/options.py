"""Options of commands that do one of several things, each with options of its own."""

from __future__ import annotations

import argparse
from collections.abc import Iterable

from bert_large.errors import InputError


def check_options(arguments: argparse.Namespace, way: str, needed: Iterable[str], foreign: Iterable[str]) -> None:
    """Raise `InputError` when an option that `way` needs is missing, or one is given that it would ignore.

    Options are named as `arguments` has them; None is one that was not given.
    """
    missing = [_option(name) for name in needed if getattr(arguments, name) is None]
    if missing:
        raise InputError(f"{way} needs {' and '.join(missing)}")
    ignored = [_option(name) for name in foreign if getattr(arguments, name) is not None]
    if ignored:
        raise InputError(f"{', '.join(ignored)} cannot be given with {way}")


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
