"""The small task of the integration tests, and a disk that can be filled."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.tasks import finished, signal_at, task

_BLOCK_BYTES = 4096
__all__ = ["SmallDisk", "finished", "signal_at", "small_disk", "task"]


class SmallDisk:
    """A file system of a few megabytes in memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "small", str(folder)], check=True)

    def fill(self) -> None:
        """Leave no free space at all, neither in free blocks nor in the last block of files that grow by lines."""
        for path in self.folder.rglob("*"):
            if path.name in ("train.log", "metrics.jsonl") or path.name.startswith("events."):
                with path.open("ab") as file:
                    file.write(b" " * (-path.stat().st_size % _BLOCK_BYTES))
        with contextlib.suppress(OSError), (self.folder / "filler").open("ab", buffering=0) as file:
            while True:
                file.write(bytes(_BLOCK_BYTES))

    def free_space(self) -> None:
        """Undo `fill`."""
        (self.folder / "filler").unlink()

    def make_read_only(self) -> None:
        """Reject all writes from now on."""
        subprocess.run(["mount", "-o", "remount,ro", str(self.folder)], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """Return a disk mounted at `tmp_path / "disk"`; skip the test if mounting is not allowed."""
    if os.getuid() != 0:
        pytest.skip("mounting a small disk needs root")
    try:
        disk = SmallDisk(tmp_path / "disk")
    except subprocess.CalledProcessError:
        pytest.skip("mounting a small disk is not allowed here")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk.folder)], check=True)
