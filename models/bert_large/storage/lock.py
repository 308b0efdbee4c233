"""At most one writer per folder: an advisory `flock` that the kernel releases when the process exits, however it exits.

The lock is on the file `.lock` in the folder, which names the holder. It works between processes of a host on every
local file system, and between hosts where the file system supports it: NFS version 4, and version 3 with its lock
service; CephFS; GPFS; Lustre mounted with `flock`. When a host dies, its locks are released once the server's lease
expires (NFS: usually 90 seconds). Mounts that keep locks local to a host (`local_lock`, `localflock`) do not separate
hosts. If the file system supports no locks at all, a warning is logged.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bert_large.errors import InputError
from bert_large.storage.atomic import explain_write_errors

LOCK_FILE = ".lock"
_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL)


class FolderLock:
    """A lock on a folder, held from construction until `close` or the end of the process."""

    def __init__(self, folder: Path, what: str, warn: Callable[[str], object], *, shared: bool = False) -> None:
        """Lock `folder`, which messages call `what`. `warn` is called if the file system does not support locks.

        A `shared` lock can be held by several processes, but not together with one that is not shared.

        Raises `InputError` if another process holds the lock, or if the folder is not writable.
        """
        path = folder / LOCK_FILE
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except OSError as error:
            raise InputError(
                f"{what} {folder} cannot be written to: {error.strerror}; make it writable for uid {os.getuid()}, or "
                "choose another folder"
            ) from None
        try:
            fcntl.flock(self._descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _UNSUPPORTED:
                warn(f"warning: {what} {folder} is on a file system without locks: do not start a second writer there")
                return
            holder = _describe_holder(path)
            os.close(self._descriptor)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            raise _in_use(what, folder, holder) from None
        if not os.path.lexists(path):  # a holder that deletes the folder has just ended
            os.close(self._descriptor)
            raise _in_use(what, folder, "a process that ends now")
        started = time.strftime("%Y-%m-%d %H:%M:%S %z")
        record = {"host": socket.gethostname(), "process": os.getpid(), "started": started}
        try:
            with explain_write_errors(path):
                os.ftruncate(self._descriptor, 0)
                os.pwrite(self._descriptor, json.dumps(record).encode() + b"\n", 0)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Release the lock. The file stays: deleting it would race with a process that waits for the lock."""
        os.close(self._descriptor)

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


@contextlib.contextmanager
def file_lock(path: Path) -> Iterator[bool]:
    """Try to lock the file `path`, without waiting; yield whether the block may do what the lock protects.

    That is also true if the file system does not support locks, or if the file is another user's: so this lock may only
    avoid that work is done twice. The file is deleted by the holder of the lock.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except PermissionError:
        yield True
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        is_mine = error.errno not in (errno.EWOULDBLOCK, errno.EACCES)
    else:
        is_mine = True
    try:
        yield is_mine
    finally:
        if is_mine:
            path.unlink(missing_ok=True)
        os.close(descriptor)


def _in_use(what: str, folder: Path, holder: str) -> InputError:
    return InputError(f"{what} {folder} is in use by {holder}; wait until it ends, stop it, or choose another folder")


def _describe_holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_bytes())
        return f"process {holder['process']} on host {holder['host']}, started {holder['started']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
