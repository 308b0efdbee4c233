"""Checks of the output folder: those of a run, without leaving anything behind."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
from bert_large.distributed.collectives import Ranks
from bert_large.doctor import output
from bert_large.doctor.finding import OK, PROBLEM, WARNING, Finding
from bert_large.doctor.output import check_output, check_room
from bert_large.errors import UserError
from bert_large.storage import atomic, lock
from bert_large.storage.lock import FolderLock
from bert_large.train.run_folder import locked_folder

from tests.support.models import tiny_config


def check(folder: Path) -> Finding:
    return check_output(folder, tiny_config())[0]


@pytest.mark.parametrize("name", [".", "new", "new/and/deeper"])
def test_a_folder_is_left_as_it_was(name: str, tmp_path: Path) -> None:
    findings = check_output(tmp_path / name, tiny_config())
    assert [(finding.topic, finding.level) for finding in findings] == [("output folder", OK), ("disk", OK)]
    assert list(tmp_path.iterdir()) == []


def test_what_a_run_refuses(tmp_path: Path) -> None:
    """A file, a folder in a file, a name that is too long, and a name that is not UTF-8."""
    (tmp_path / "file").touch()
    names = ("file", "file/in", "x" * 300, os.fsdecode(b"not-utf-8-\xff"))
    for name in names:
        finding = check(tmp_path / name)
        assert finding.level == PROBLEM and name[:20] in finding.found
        with pytest.raises((UserError, OSError)), locked_folder(tmp_path / name, Ranks()):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_folder_of_another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's answer, as tests may run as root, to whom nothing is forbidden."""

    def refuse(*arguments: object, **options: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path))

    monkeypatch.setattr(output.tempfile, "TemporaryDirectory", refuse)
    assert check(tmp_path).level == PROBLEM
    monkeypatch.setattr(Path, "exists", refuse)
    assert check(tmp_path).level == PROBLEM


def test_a_folder_in_use(tmp_path: Path) -> None:
    with FolderLock(tmp_path, "OUTPUT_DIR", print):
        finding = check(tmp_path)
        assert finding.level == PROBLEM and str(os.getpid()) in finding.found
    (tmp_path / "run.json").write_text(json.dumps({}))
    finding = check(tmp_path)
    assert finding.level == OK and "run" in finding.found


@pytest.mark.parametrize("where", ["flush", "lock"])
def test_weak_file_systems(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without flushing of folders, or without locks: a run works there, with a warning."""

    def refuse(*arguments: object) -> None:
        raise OSError(errno.EINVAL if where == "flush" else errno.ENOLCK, "not supported")

    monkeypatch.setattr(atomic.os if where == "flush" else lock.fcntl, "fsync" if where == "flush" else "flock", refuse)
    assert check(tmp_path).level == WARNING


@pytest.mark.parametrize(("free", "level"), [(13, OK), (12, WARNING), (4, WARNING), (3, PROBLEM)])
def test_room(free: int, level: str) -> None:
    """Two checkpoints of 4 GB are kept, the third is written before one is deleted, and the model has 1 GB."""
    giga = 10**9
    finding = check_room(Path("/runs"), free * giga, 4 * giga, giga, keep=2)
    assert finding.level == level and "13 GB needed: 3 checkpoints of 4 GB" in finding.found
