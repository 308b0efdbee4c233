"""Files that are written completely or not at all, and errors that explain a failed write."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import google_crc32c

from bert_large.errors import DamageError, WriteError

_BLOCK_BYTES = 1 << 22
_LONGEST_NAME = 100
"""File names up to this many bytes become part of temporary names; file systems allow 255 bytes, some only 143."""
# Errors meaning that the disk accepts no more data: full or over quota; read-only, failing, file too large.
_SPACE_ERRORS = (errno.ENOSPC, errno.EDQUOT)
_DISK_ERRORS = (*_SPACE_ERRORS, errno.EROFS, errno.EIO, errno.EFBIG)
# Errors of file systems that cannot flush: many network and FUSE file systems refuse to flush folders.
_FLUSH_UNSUPPORTED = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF)


@contextlib.contextmanager
def explain_write_errors(path: Path, needed_bytes: int | None = None) -> Iterator[None]:
    """Convert errors of the disk within the block to a `WriteError` about `path`; other errors pass unchanged."""
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        raise _write_error(path, error.errno, error.strerror or str(error), needed_bytes) from error


def _write_error(path: Path, code: int, reason: str, needed_bytes: int | None) -> WriteError:
    needed = "" if needed_bytes is None else f", {describe_bytes(needed_bytes)} needed"
    remedy = "Free some space" if code in _SPACE_ERRORS else "Check the disk and its file system"
    return WriteError(
        f"{path} could not be written: {reason}; {describe_bytes(free_bytes(path))} free there{needed}. {remedy} "
        "and run the same command again"
    )


@contextlib.contextmanager
def continuing_when_repeated(does: bool = True) -> Iterator[None]:
    """Add to a `WriteError` raised in the block, if it `does`, that the command continues from the completed work."""
    try:
        yield
    except WriteError as error:
        if does:
            error.args = (f"{error}; the repeated command continues from the completed work",)
        raise


def require_free_bytes(path: Path, needed_bytes: int) -> None:
    """Raise `WriteError` if the file system of `path` has too little free space. Quotas are not considered."""
    if free_bytes(path) < needed_bytes:
        raise _write_error(path, errno.ENOSPC, os.strerror(errno.ENOSPC), needed_bytes)


def free_bytes(path: Path) -> int:
    """Return the free space of the file system that holds `path`, or will hold it once it exists."""
    existing = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    return shutil.disk_usage(existing).free


def describe_bytes(count: int) -> str:
    """Return a size with three digits and a unit, in powers of 1000 as disks are sold: `4.03 GB`."""
    size, units = float(count), ["bytes", "kB", "MB", "GB", "TB"]
    while size >= 999.5 and len(units) > 1:  # 999.5 has four digits once rounded
        size, units = size / 1000, units[1:]
    return f"{count} bytes" if units[0] == "bytes" else f"{size:.3g} {units[0]}"


@contextlib.contextmanager
def replace_atomically(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; if the block succeeds, flush that file to disk and rename it to `path`."""
    partial = _partial_path(path)
    with explain_write_errors(path):
        partial.unlink(missing_ok=True)  # if it is a symbolic link, opening it would write to its target
        try:
            yield partial
            sync_file(partial)
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def _partial_path(path: Path) -> Path:
    name = os.fsencode(path.name)
    stem = path.name if len(name) <= _LONGEST_NAME else hashlib.sha256(name).hexdigest()
    # Process ids are unique only on one host, and writers on several hosts or in several containers can share a folder.
    host = hashlib.sha256(os.fsencode(socket.gethostname())).hexdigest()[:8]
    return path.with_name(f".{stem}.{os.getpid()}-{host}.partial")


@contextlib.contextmanager
def write_atomically(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path`; if the block succeeds, flush it to disk and rename it to `path`."""
    with replace_atomically(path) as partial, partial.open("wb") as file:
        yield file


def write_json(path: Path, value: Any) -> None:
    """Write `value` to `path` as indented JSON, atomically.

    Raises `ValueError` for NaN and infinity, which are not JSON: callers replace them by None or refuse them.
    """
    with write_atomically(path) as file:
        file.write((json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises `FileNotFoundError` if there is no file, and `DamageError` if it cannot be read or holds anything else.
    """
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DamageError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # not UTF-8, truncated, nested too deeply
        raise DamageError(f"{path} is damaged: it is not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise DamageError(f"{path} is damaged: found {str(content)[:60]!r}, expected a JSON object")
    return content


def remove_partial_files(folder: Path) -> None:
    """Delete the temporary files that killed writers left in a folder. No other process may be writing there.

    Unfinished subfolders stay: the commands that create them also delete them.
    """
    for leftover in partial_files(folder):
        leftover.unlink()


def partial_files(folder: Path) -> list[Path]:
    """Return the temporary files in a folder that `replace_atomically` created."""
    return [path for path in folder.glob(".*.[0-9]*.partial") if path.is_symlink() or not path.is_dir()]


def remove_tree(path: Path, *, ignore_errors: bool = False) -> None:
    """Delete a file, or a folder with its content, if it exists. Of a symbolic link, only the link is deleted.

    With `ignore_errors`, what cannot be deleted stays: for cleaning up after another error.
    """
    with contextlib.suppress(OSError) if ignore_errors else contextlib.nullcontext():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=ignore_errors)
        else:
            path.unlink(missing_ok=True)


class GrowingFile:
    """A file to append to, without a buffer: appended data survives a kill, and write errors are raised at once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("ab", buffering=0)

    def append(self, data: bytes) -> None:
        """Write all of `data`. If the disk fills up midway, the file ends with a prefix of `data`."""
        with explain_write_errors(self._path):
            while data:
                data = data[self._file.write(data) :]

    def flush_to_disk(self) -> None:
        """Flush all appended data to disk."""
        with explain_write_errors(self._path):
            flush_descriptor(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def crc32c_of_bytes(content: bytes) -> str:
    """Return the CRC-32C of bytes as eight hexadecimal digits."""
    return f"{google_crc32c.value(content):08x}"


def crc32c_of(path: Path) -> str:
    """Return the CRC-32C of a file's bytes as eight hexadecimal digits; about as fast as memory can be read."""
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            checksum = google_crc32c.extend(checksum, block)
    return f"{checksum:08x}"


def flush_descriptor(descriptor: int) -> None:
    """Flush an open file or folder to disk, where the file system can do so."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _FLUSH_UNSUPPORTED:
            raise


def sync_file(path: Path) -> None:
    """Flush a file's bytes to disk."""
    with path.open("rb") as file:
        flush_descriptor(file.fileno())


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, so that a rename in it survives a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        flush_descriptor(descriptor)
    finally:
        os.close(descriptor)


def drop_from_page_cache(path: Path) -> None:
    """Ask the kernel to drop its cached pages of a file, so that the next read comes from the disk."""
    with path.open("rb") as file, contextlib.suppress(OSError):  # advisory only; some file systems ignore it
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
