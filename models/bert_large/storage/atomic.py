"""Files that are written whole or not at all, and what is said when that fails."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import google_crc32c

from bert_large.errors import DamageError, WriteError

_BLOCK_BYTES = 1 << 22
# What a disk says that takes no more: full, over quota, read-only, broken.
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG)


@contextlib.contextmanager
def explain_write_errors(path: Path, needed_bytes: int | None = None) -> Iterator[None]:
    """Raise a disk's error within the block as a `WriteError` on `path`; other errors pass as they are."""
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        raise _write_error(path, error.strerror or str(error), needed_bytes) from error


def _write_error(path: Path, reason: str, needed_bytes: int | None) -> WriteError:
    needed = "" if needed_bytes is None else f", {describe_bytes(needed_bytes)} needed"
    return WriteError(
        f"{path} could not be written: {reason}; {describe_bytes(free_bytes(path))} free there{needed}. Make room and "
        "start the same command again: it goes on from what is finished"
    )


def require_free_bytes(path: Path, needed_bytes: int) -> None:
    """Raise `WriteError` when the file system that `path` will be on has less room; a quota is not seen."""
    if free_bytes(path) < needed_bytes:
        raise _write_error(path, os.strerror(errno.ENOSPC), needed_bytes)


def free_bytes(path: Path) -> int:
    """Return the room on the file system that `path` is on, or will be."""
    existing = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    return shutil.disk_usage(existing).free


def describe_bytes(count: int) -> str:
    """Return a size as a person reads it, in powers of 1000 as disks are sold: `4.03 GB`."""
    size, units = float(count), ["bytes", "kB", "MB", "GB", "TB"]
    while size >= 1000 and len(units) > 1:
        size, units = size / 1000, units[1:]
    return f"{count} bytes" if units[0] == "bytes" else f"{size:.3g} {units[0]}"


@contextlib.contextmanager
def replace_atomically(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; its file takes the name of `path`, flushed to disk, if no error comes."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with explain_write_errors(path):
        partial.unlink(missing_ok=True)  # were it a link, the file that it leads to would be written
        try:
            yield partial
            sync_file(partial)
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


@contextlib.contextmanager
def write_atomically(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path` that takes its name, flushed to disk, when the block ends without error."""
    with replace_atomically(path) as partial, partial.open("wb") as file:
        yield file


def write_json(path: Path, value: Any) -> None:
    """Write `value` to `path` as indented JSON, atomically.

    Raises `ValueError` for NaN and infinity, which are not JSON: callers replace them by None or refuse them.
    """
    with write_atomically(path) as file:
        file.write((json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file; raises `DamageError` where that is not what the file holds.

    A file that is not there is `FileNotFoundError`.
    """
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DamageError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # not UTF-8, cut short, nested without end
        raise DamageError(f"{path} is damaged: it is no JSON: {error}") from None
    if not isinstance(content, dict):
        raise DamageError(f"{path} is damaged: found {str(content)[:60]!r}, expected a JSON object")
    return content


def remove_partial_files(folder: Path) -> None:
    """Remove what writers of this folder's files left that were killed; no other may be at work there.

    Unfinished folders stay: commands that were told to put theirs in here make them, and clear them up.
    """
    for leftover in partial_files(folder):
        leftover.unlink()


def partial_files(folder: Path) -> list[Path]:
    """Return the temporary files in a folder, as `replace_atomically` names them."""
    return [path for path in folder.glob(".*.[0-9]*.partial") if path.is_symlink() or not path.is_dir()]


def remove_tree(path: Path, *, ignore_errors: bool = False) -> None:
    """Delete a file or a folder and all that is in it, if it is there; of a link, never what it leads to.

    With `ignore_errors` what cannot be deleted stays: for cleaning up after another error.
    """
    with contextlib.suppress(OSError) if ignore_errors else contextlib.nullcontext():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=ignore_errors)
        else:
            path.unlink(missing_ok=True)


class GrowingFile:
    """A file that is appended to. It has no buffer: what was appended outlives a kill, and an error comes at once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("ab", buffering=0)

    def append(self, data: bytes) -> None:
        """Write all of `data`; a disk that fills up on the way leaves the start of it."""
        with explain_write_errors(self._path):
            while data:
                data = data[self._file.write(data) :]

    def flush_to_disk(self) -> None:
        """Put all that was appended on disk."""
        with explain_write_errors(self._path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal as `sha256sum` prints it."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def crc32c_of(path: Path) -> str:
    """Return the CRC-32C of a file's bytes as eight hexadecimal digits: it finds damage at the speed of memory."""
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            checksum = google_crc32c.extend(checksum, block)
    return f"{checksum:08x}"


def sync_file(path: Path) -> None:
    """Flush a file's bytes to disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries, so that a rename in it survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def drop_from_page_cache(path: Path) -> None:
    """Ask the system to forget what it keeps of a file in memory, so that reading it goes to the disk again."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def default_file_mode() -> int:
    """Return the mode that new files get from the process's umask."""
    umask = os.umask(0o077)  # it can only be read by setting it
    os.umask(umask)
    return 0o666 & ~umask
