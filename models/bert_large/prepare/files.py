"""Folders of input files and places of output files, checked before any work."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bert_large.errors import InputError

# What `prepare` and `corpus` leave beside the files they make.
MANIFEST_NAME = "manifest.json"


def list_input_files(folder: Path) -> list[Path]:
    """Return the regular, non-hidden files of `folder` but its manifest, by name; `InputError` if there are none."""
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise InputError(f"--input-dir {folder}: found {found}, expected a folder of input files")
    files = sorted(path for path in folder.iterdir() if _is_input(path))
    if not files:
        raise InputError(
            f"--input-dir {folder}: found no files in it; folders inside are not searched, name the one with the files"
        )
    return files


def _is_input(path: Path) -> bool:
    return path.is_file() and not path.name.startswith(".") and path.name != MANIFEST_NAME


def check_outputs(outputs: Sequence[Path], *, input_dir: Path, overwrite: bool) -> None:
    """Create the outputs' folders; raise `InputError` if an output exists already or would lie among the inputs."""
    for folder in {output.parent for output in outputs}:
        if folder.resolve() == input_dir.resolve():
            raise InputError(f"the output folder {folder} is the input folder; outputs need a folder of their own")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"the output folder {folder} cannot be made: {error.strerror}; choose another") from error
    existing = [output for output in outputs if output.exists()]
    folders = [output for output in existing if output.is_dir()]
    if folders:
        raise InputError(f"the output file {folders[0]} is a folder; name a file")
    if existing and not overwrite:
        raise InputError(
            f"{len(existing)} of {len(outputs)} output files exist already, first {existing[0]}; "
            "give --overwrite to replace them, or choose another place"
        )
