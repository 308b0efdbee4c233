"""The output folder of a command: checks that it is free, and publishes a finished model in it."""

from __future__ import annotations

import errno
import os
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
from bert_large.storage.lock import FolderLock

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
_PARTIAL, _FILES = ".partial-output", "files"


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
    """Create a folder and its parents; raise `InputError` if that is not possible, or if it cannot be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"the output folder {folder} cannot be created: {error.strerror}; choose another folder"
        ) from None
    if not os.access(folder, os.W_OK | os.X_OK):
        is_read_only = os.statvfs(folder).f_flag & os.ST_RDONLY
        reason = os.strerror(errno.EROFS if is_read_only else errno.EACCES)
        raise InputError(f"the output folder {folder} cannot be written to: {reason}; choose another folder")


@contextmanager
def partial_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty hidden folder in `folder` to write to first; what is left in it afterwards is deleted.

    Raises `InputError` while another process has it.
    """
    make_folder(folder)
    hidden = folder / _PARTIAL
    if hidden.is_symlink():
        hidden.unlink()
    with explain_write_errors(folder):
        hidden.mkdir(exist_ok=True)
    # No warning where the file system has no locks: only the user can ensure there that one process writes.
    with FolderLock(hidden, "the unfinished output", lambda warning: None):
        partial = hidden / _FILES
        try:
            remove_tree(partial)  # of a killed process
            with explain_write_errors(folder):
                partial.mkdir()
            yield partial
        finally:
            remove_tree(hidden, ignore_errors=True)


def publish_model(partial: Path, folder: Path) -> None:
    """Move a model's files from `partial` to `folder`, `config.json` last: without it, no command reads the folder."""
    for name in (CONFIG_FILE, CHECKSUMS_FILE):
        (folder / name).unlink(missing_ok=True)
    publish(partial, folder)


def publish(partial: Path, folder: Path) -> None:
    """Move the files in `partial` to `folder`, `config.json` last."""
    files = (path for path in partial.iterdir() if path.is_file())
    for path in sorted(files, key=lambda path: path.name == CONFIG_FILE):
        path.replace(folder / path.name)
    sync_folder(folder)
