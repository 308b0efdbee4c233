"""Files are whole or absent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from bert_large.storage.atomic import remove_partial_files, remove_tree, write_atomically


def test_output_appears_when_complete(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with write_atomically(path) as file:
        file.write(b"new")
        assert not path.exists()
        assert [entry.name for entry in tmp_path.iterdir()] == [f".out.{os.getpid()}.partial"]
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
    (tmp_path / f".out.{os.getpid()}.partial").symlink_to(other)
    with write_atomically(tmp_path / "out") as file:
        file.write(b"new")
    assert other.read_bytes() == b"keep"
    assert (tmp_path / "out").read_bytes() == b"new" and not (tmp_path / "out").is_symlink()


def test_what_links_lead_to_is_not_removed(tmp_path: Path) -> None:
    """Neither when the link is what is to be removed, nor when it lies in there."""
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


def test_an_error_while_removing_is_raised_unless_it_is_to_be_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "unlink", refuse)
    remove_tree(tmp_path / "file", ignore_errors=True)
    with pytest.raises(PermissionError):
        remove_tree(tmp_path / "file")


def test_leftovers_of_writers_are_removed(tmp_path: Path) -> None:
    """Files alone: an unfinished folder is another command's, as of an export that was told to write in here."""
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
