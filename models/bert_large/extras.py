"""Packages that only some commands need: the extras of pyproject.toml."""

from __future__ import annotations

import importlib
import shlex
import sys
from pathlib import Path
from typing import Any

from bert_large.errors import InputError

_PROJECT = Path(__file__).parents[2]
_IN_IMAGES = dict.fromkeys(("finetune", "inference"), "FINETUNE=1 ./build.sh makes an image that has them")


def import_extra(purpose: str, extra: str, *names: str) -> Any:
    """Import modules of an extra and return the first; raise `InputError` if one cannot be imported.

    `purpose` is the option or command that needs them.
    """
    try:
        first, *_ = map(importlib.import_module, names)
    except ImportError as error:
        raise missing_extra(purpose, extra, error) from error
    return first


def missing_extra(purpose: str, extra: str, found: object) -> InputError:
    """Return the error for a package that is not installed, with the command that installs it from here.

    This package is on no public index, where others own its name: `pip` gets the project's folder. `purpose` is the
    option or command that needs the extra, `found` the error of the import.
    """
    inside = (_PROJECT / "pyproject.toml").is_file()
    source = shlex.quote(f"{_PROJECT}[{extra}]") if inside else f"'.[{extra}]' in the project's folder"
    command = f"{shlex.quote(sys.executable)} -m pip install -e {source}"
    image = _IN_IMAGES.get(extra, f"add '.[{extra}]' to the pip install of the Dockerfile and build the image again")
    return InputError(
        f"{purpose} needs packages that are not installed ({found}); install them: {command}; for a container: {image}"
    )
