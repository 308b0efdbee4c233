"""The output folder of a command: checks that it is free, and publishes a finished model in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bert_large.errors import InputError
from bert_large.storage.atomic import (
    explain_write_errors,
    partial_files,
    remove_partial_files,
    remove_tree,
    sync_folder,
)
from bert_large.storage.integrity import CHECKSUMS_FILE

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
_PARTIAL = ".partial-output"


def require_free(folder: Path, *, overwrite: bool) -> None:
    """Raise `InputError` unless the folder is empty, does not exist, or may be overwritten.

    Files that a killed command left unfinished there do not count, and are deleted.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--output-dir {folder} is a file; expected a folder")
    unfinished = {_PARTIAL, *(path.name for path in partial_files(folder))}
    found = sorted(path.name for path in folder.glob("*") if path.name not in unfinished)
    if found and not overwrite:
        raise InputError(
            f"--output-dir {folder} is not empty: it contains {found[0]}; give an empty folder, or --overwrite to "
            "replace the files that this command writes"
        )
    remove_partial_files(folder)


def make_folder(folder: Path) -> None:
    """Create a folder and its parents; raise `InputError` if that is not possible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"the output folder {folder} cannot be created: {error.strerror}; choose another folder"
        ) from None


@contextmanager
def partial_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty hidden folder in `folder` to write to first; what is left in it afterwards is deleted."""
    partial = folder / _PARTIAL
    remove_tree(partial)
    make_folder(folder)
    with explain_write_errors(folder):
        partial.mkdir()
    try:
        yield partial
    finally:
        remove_tree(partial, ignore_errors=True)


def publish_model(partial: Path, folder: Path) -> None:
    """Move a model's files from `partial` to `folder`, `config.json` last: without it, no command reads the folder."""
    for name in (CONFIG_FILE, CHECKSUMS_FILE):
        (folder / name).unlink(missing_ok=True)
    files = (path for path in partial.iterdir() if path.is_file())
    for path in sorted(files, key=lambda path: path.name == CONFIG_FILE):
        path.replace(folder / path.name)
    sync_folder(folder)
