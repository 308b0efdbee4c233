"""Output folders: what can be written to, and one writer for each unfinished output."""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path

import pytest
from bert_large.errors import InputError, WriteError
from bert_large.storage.atomic import continuing_when_repeated
from bert_large.storage.lock import FolderLock
from bert_large.storage.output_folder import make_folder, partial_folder, publish


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may write everywhere, so the kernel's answer is simulated here; `tests/fault` has a real one."""
    make_folder(tmp_path / "new" / "folder")
    monkeypatch.setattr(os, "access", lambda *arguments: False)
    with pytest.raises(InputError, match=f"{tmp_path} .*Permission denied"):
        make_folder(tmp_path)


def test_files_are_published_together(tmp_path: Path) -> None:
    """Nothing else is left, neither of an output that failed nor of one that was killed."""
    (tmp_path / ".partial-output" / "files").mkdir(parents=True)
    (tmp_path / ".partial-output" / "files" / "old").touch()
    with pytest.raises(KeyboardInterrupt), partial_folder(tmp_path) as partial:
        assert list(partial.iterdir()) == []
        (partial / "a").touch()
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    with partial_folder(tmp_path) as partial:
        for name in ("a", "b"):
            (partial / name).touch()
        publish(partial, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    """It names the first one, whose files stay."""
    with partial_folder(tmp_path) as partial:
        (partial / "a").touch()
        with pytest.raises(InputError, match=f"{tmp_path}.* process {os.getpid()} "), partial_folder(tmp_path):
            pass
        assert (partial / "a").exists()
    with partial_folder(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_the_lock_of_a_folder_that_was_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between opening and locking, a holder may delete the folder: that lock would exclude nobody."""
    folder = tmp_path / "folder"
    folder.mkdir()
    monkeypatch.setattr(fcntl, "flock", lambda *how: shutil.rmtree(folder))
    with pytest.raises(InputError, match=str(folder)):
        FolderLock(folder, "the folder", print)


def test_only_commands_that_continue_promise_to(tmp_path: Path) -> None:
    for does in (True, False):
        with pytest.raises(WriteError, match="full") as caught, continuing_when_repeated(does):
            raise WriteError("full")
        assert ("continues" in str(caught.value)) is does
