"""At most one writer per folder."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from bert_large.errors import InputError
from bert_large.storage.lock import FolderLock

from tests.support.runs import process_environment

HOLD = """
import sys, time
from pathlib import Path
from bert_large.storage.lock import FolderLock
lock = FolderLock(Path(sys.argv[1]), "OUTPUT_DIR", print)
print("locked", flush=True)
time.sleep(60)
"""


def refuse(text: str) -> None:
    raise AssertionError(text)


def test_the_holder_is_named_and_a_kill_releases(tmp_path: Path) -> None:
    """By host, process and start. The lock of a killed holder is free at once, though its file still names it."""
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, env=process_environment(), stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None and holder.stdout.readline() == "locked\n"
            record = json.loads((tmp_path / ".lock").read_text())
            with pytest.raises(InputError, match=f"OUTPUT_DIR {tmp_path}") as caught:
                FolderLock(tmp_path, "OUTPUT_DIR", refuse)
            for named in (str(holder.pid), socket.gethostname(), record["started"]):
                assert named in str(caught.value)
        finally:
            holder.send_signal(signal.SIGKILL)
    with FolderLock(tmp_path, "OUTPUT_DIR", refuse):
        assert json.loads((tmp_path / ".lock").read_text())["process"] == os.getpid()


def test_a_process_cannot_lock_twice(tmp_path: Path) -> None:
    with FolderLock(tmp_path, "folder", refuse), pytest.raises(InputError, match=str(os.getpid())):
        FolderLock(tmp_path, "folder", refuse)
    FolderLock(tmp_path, "folder", refuse).close()


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may write everywhere, so the kernel's answer is simulated here; `tests/fault` has a real one."""

    def deny(*arguments: object) -> int:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "open", deny)
    with pytest.raises(InputError, match=rf"OUTPUT_DIR {tmp_path} .*Read-only file system"):
        FolderLock(tmp_path, "OUTPUT_DIR", refuse)


def test_a_file_system_without_locks_causes_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*arguments: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unknown)
    warnings: list[str] = []
    FolderLock(tmp_path, "OUTPUT_DIR", warnings.append).close()
    assert len(warnings) == 1 and f"OUTPUT_DIR {tmp_path}" in warnings[0]


def test_a_link_in_place_of_the_lock_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"keep")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / ".lock").symlink_to(tmp_path / "other")
    with pytest.raises(InputError, match=f"OUTPUT_DIR {tmp_path}/folder"):
        FolderLock(tmp_path / "folder", "OUTPUT_DIR", refuse)
    assert (tmp_path / "other").read_bytes() == b"keep"
