"""One writer a folder: a lock that the system releases when its holder ends, however that happens.

The lock is `flock` on `.lock` in the folder; the file tells who has it. It holds between processes of a host on every
local file system, and between hosts where the file system passes locks on: NFS version 4 and, with its lock service,
3; CephFS; GPFS; Lustre mounted with `flock`. A host that dies loses its locks when the server's lease ends (NFS: 90
seconds as a rule). Where locks are not passed on (`local_lock`, `localflock`) two hosts are not kept apart; where there
are none at all, that is said.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from bert_large.errors import InputError
from bert_large.storage.atomic import explain_write_errors

LOCK_FILE = ".lock"
_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL)


class FolderLock:
    """Held from when it is made until it is closed or the process ends."""

    def __init__(self, folder: Path, what: str, warn: Callable[[str], object]) -> None:
        """Lock `folder`, which a message calls `what`; `warn` is told where locks are unknown.

        Raises `InputError` when another process has the lock, or when the folder cannot be written to.
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
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _UNSUPPORTED:
                warn(f"warning: {what} {folder} is on a file system without locks: see that nobody else writes there")
                return
            holder = _describe_holder(path)
            os.close(self._descriptor)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            raise InputError(
                f"{what} {folder} is in use by {holder}; wait for its end, stop it, or choose another folder"
            ) from None
        facts = {
            "host": socket.gethostname(),
            "process": os.getpid(),
            "started": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        }
        with explain_write_errors(path):
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, json.dumps(facts).encode() + b"\n", 0)

    def close(self) -> None:
        """Let others have the folder. The file stays: to remove it could take a lock from who waits for it."""
        os.close(self._descriptor)

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _describe_holder(path: Path) -> str:
    try:
        facts = json.loads(path.read_bytes())
        return f"process {facts['process']} on host {facts['host']}, started {facts['started']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process, which has not said who it is"
