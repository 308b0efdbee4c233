"""A folder that a command fills: whether it is free, and how a model takes its place in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bert_large.errors import InputError
from bert_large.storage.atomic import partial_files, remove_partial_files, remove_tree, sync_folder
from bert_large.storage.integrity import CHECKSUMS_FILE

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
_PARTIAL = ".partial-output"


def require_free(folder: Path, *, overwrite: bool) -> None:
    """Raise `InputError` unless the folder can be written to: it is empty, not there, or may be replaced.

    What a command that was killed left unfinished there does not count, and is removed.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--output-dir {folder} is a file; name a folder")
    unfinished = {_PARTIAL, *(path.name for path in partial_files(folder))}
    found = sorted(path.name for path in folder.glob("*") if path.name not in unfinished)
    if found and not overwrite:
        raise InputError(
            f"--output-dir {folder} is not empty: it holds {found[0]}; name an empty folder, or give --overwrite to "
            "replace the files that this command writes"
        )
    remove_partial_files(folder)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it; raise `InputError` if that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"the output folder {folder} cannot be made: {error.strerror}; choose another") from None


@contextmanager
def partial_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder in `folder`, in which all is written first; what is still in it afterwards is deleted."""
    partial = folder / _PARTIAL
    remove_tree(partial)
    make_folder(partial)
    try:
        yield partial
    finally:
        remove_tree(partial, ignore_errors=True)


def publish_model(partial: Path, folder: Path) -> None:
    """Move a model's files to their place, `config.json` last: without it no command takes a folder for a model."""
    for name in (CONFIG_FILE, CHECKSUMS_FILE):
        (folder / name).unlink(missing_ok=True)
    files = (path for path in partial.iterdir() if path.is_file())
    for path in sorted(files, key=lambda path: path.name == CONFIG_FILE):
        path.replace(folder / path.name)
    sync_folder(folder)
