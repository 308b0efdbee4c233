"""Files are written completely or not at all."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest
from bert_large.errors import WriteError
from bert_large.storage.atomic import (
    _partial_path,
    describe_bytes,
    partial_files,
    read_json,
    remove_partial_files,
    remove_tree,
    write_atomically,
    write_json,
)


@pytest.mark.parametrize(
    ("count", "described"),
    [
        (999, "999 bytes"), (1000, "1 kB"), (999_499, "999 kB"), (999_600, "1 MB"), (999_500_000, "1 GB"),
        (4_030_000_000, "4.03 GB"), (999_999_999_999, "1 TB"),
    ],
)  # fmt: skip
def test_sizes_have_three_digits(count: int, described: str) -> None:
    assert describe_bytes(count) == described


def test_output_appears_when_complete(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with write_atomically(path) as file:
        file.write(b"new")
        assert not path.exists()
        (partial,) = tmp_path.iterdir()
        assert partial.name.startswith(f".out.{os.getpid()}-") and partial.name.endswith(".partial")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_failed_output_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), write_atomically(path) as file:
        file.write(b"new")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_in_place_of_the_temporary_file_is_not_written_through(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"keep")
    _partial_path(tmp_path / "out").symlink_to(other)
    with write_atomically(tmp_path / "out") as file:
        file.write(b"new")
    assert other.read_bytes() == b"keep"
    assert (tmp_path / "out").read_bytes() == b"new" and not (tmp_path / "out").is_symlink()


def test_targets_of_links_are_not_removed(tmp_path: Path) -> None:
    """Neither of a link itself, nor of one in a folder that is removed."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_bytes(b"keep")
    (tmp_path / "link").symlink_to("other")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    (tmp_path / "folder" / "inner" / "link").symlink_to(tmp_path / "other")
    for name in ("link", "dangling", "folder", "not there"):
        remove_tree(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["other"]
    assert (tmp_path / "other" / "file").read_bytes() == b"keep"


def test_errors_while_removing_are_raised_unless_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "unlink", refuse)
    remove_tree(tmp_path / "file", ignore_errors=True)
    with pytest.raises(PermissionError):
        remove_tree(tmp_path / "file")


def test_leftovers_of_writers_are_removed(tmp_path: Path) -> None:
    """Only files: an unfinished folder belongs to another command, such as an export into this folder."""
    for name in (".metrics.jsonl.7.partial", ".a download.partial", "kept"):
        (tmp_path / name).touch()
    (tmp_path / ".corpus.partial").mkdir()
    (tmp_path / ".ckpt.8.partial").mkdir()
    (tmp_path / ".link.9.partial").symlink_to(tmp_path / ".corpus.partial")
    remove_partial_files(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".a download.partial",
        ".ckpt.8.partial",
        ".corpus.partial",
        "kept",
    ]


@pytest.mark.parametrize("name", ["x" * 255, "\N{LATIN SMALL LETTER E WITH ACUTE}" * 127, "\udcff" * 255])
def test_names_of_the_greatest_length(tmp_path: Path, name: str) -> None:
    """Temporary names are not longer than a file system allows, and are recognized after a kill."""
    path = tmp_path / name
    with write_atomically(path) as file:
        (partial,) = tmp_path.iterdir()
        assert partial_files(tmp_path) == [partial]
        file.write(b"new")
    assert path.read_bytes() == b"new" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS])
def test_file_systems_that_cannot_flush_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    flush = os.fsync

    def refuse(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", refuse)
    write_json(tmp_path / "out", {"a": 1})
    assert read_json(tmp_path / "out") == {"a": 1}


@pytest.mark.parametrize(("number", "is_full"), [(errno.EIO, False), (errno.ENOSPC, True), (errno.EDQUOT, True)])
def test_a_disk_that_fails_to_flush_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, is_full: bool
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(WriteError, match=str(tmp_path / "out")) as raised:
        write_json(tmp_path / "out", {"a": 1})
    assert ("Free some space" in str(raised.value)) is is_full
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_never_holds_values_that_it_cannot_represent(tmp_path: Path, value: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "out", {"a": value})
    assert list(tmp_path.iterdir()) == []
