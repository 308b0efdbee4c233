"""Which folder of a dataset is used, and which of its files are shards; nothing is left out silently."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from bert_large.data.folders import find_eval_folder, find_training_folder, list_shards, list_subfolders
from bert_large.errors import InputError


@pytest.mark.parametrize(
    ("name", "length"),
    [("seq_128", 128), ("seq_512", 512), ("hdf5_seq_128", 128), ("2048_shards_uncompressed_512", 512)],
)
def test_known_sub_folders_are_found(tmp_path: Path, name: str, length: int) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / "README").touch()
    assert find_training_folder(tmp_path, length) == tmp_path / name


def test_a_folder_of_shards_is_used_itself(tmp_path: Path) -> None:
    (tmp_path / "part-00000").touch()
    (tmp_path / "seq_512").mkdir()
    assert find_training_folder(tmp_path, 128) == tmp_path


def test_a_folder_without_data_is_refused(tmp_path: Path) -> None:
    (tmp_path / "seq_512").mkdir()
    (tmp_path / ".hidden").touch()
    with pytest.raises(InputError, match=r"128 tokens.* seq_128"):
        find_training_folder(tmp_path, 128)
    with pytest.raises(InputError, match=r"DATASET_DIR .*nowhere"):
        find_training_folder(tmp_path / "nowhere", 128)


@pytest.mark.parametrize("name", ["eval", "eval_set_uncompressed"])
def test_eval_folder_is_found(tmp_path: Path, name: str) -> None:
    assert find_eval_folder(tmp_path) is None
    (tmp_path / name).mkdir()
    assert find_eval_folder(tmp_path) == tmp_path / name


def test_shards_are_the_visible_files_in_order_of_name(tmp_path: Path) -> None:
    """Links to files are followed. Folders are not read, and listed so that the log can name them."""
    for name in ("part-00010", "part-00002", ".hidden", "_SUCCESS", "README.md", "manifest.json", "x.md5", "train.log"):
        (tmp_path / name).touch()
    (tmp_path / "b.hdf5").symlink_to(tmp_path / "part-00010")
    for name in ("more", "eval", "seq_512", ".cache"):
        (tmp_path / name).mkdir()
    (tmp_path / "linked").symlink_to(tmp_path / "more")
    assert [path.name for path in list_shards(tmp_path)] == ["b.hdf5", "part-00002", "part-00010"]
    assert [path.name for path in list_subfolders(tmp_path)] == ["linked", "more"]


def test_a_folder_without_shards_is_refused(tmp_path: Path) -> None:
    (tmp_path / "README.md").touch()
    (tmp_path / "nested").mkdir()
    with pytest.raises(InputError, match=rf"{tmp_path} .*TFRecord|{tmp_path} .*tfrecord.*nested"):
        list_shards(tmp_path)
    with pytest.raises(InputError, match=rf"{tmp_path}/README.md "):
        list_shards(tmp_path / "README.md")


def test_a_manifest_of_another_program_shows_nothing(tmp_path: Path) -> None:
    (tmp_path / "part-0").touch()
    for content in ("", "[]", "{}", '{"inputs": {"a": {}}, "outputs": {"gone": {}}}', '{"tool": "bert-large 1"}'):
        (tmp_path / "manifest.json").write_text(content)
        assert [path.name for path in list_shards(tmp_path)] == ["part-0"]


def break_link(path: Path) -> None:
    path.symlink_to(path.with_name("gone"))


def link_to_itself(path: Path) -> None:
    path.symlink_to(path)


@pytest.mark.parametrize("make", [break_link, link_to_itself, os.mkfifo])
def test_what_cannot_be_read_is_not_left_out(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """A shard that is a broken link is missing data: training on the others would go unnoticed."""
    (tmp_path / "part-0").touch()
    make(tmp_path / "part-1")
    with pytest.raises(InputError, match=rf"{tmp_path}/part-1 "):
        list_shards(tmp_path)


@pytest.mark.parametrize("make", [break_link, link_to_itself])
def test_a_known_folder_that_is_a_broken_link_is_refused(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """Without an error the files beside it would be used as shards, or the evaluation left out."""
    (tmp_path / "notes").touch()
    make(tmp_path / "seq_128")
    make(tmp_path / "eval")
    with pytest.raises(InputError, match=rf"{tmp_path}/seq_128 "):
        find_training_folder(tmp_path, 128)
    with pytest.raises(InputError, match=rf"{tmp_path}/eval "):
        find_eval_folder(tmp_path)


def test_a_folder_without_permission_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Patched, because these tests also run as root, which may read everything."""

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    (tmp_path / "part-0").touch()
    monkeypatch.setattr(Path, "iterdir", refuse)
    for look in (list_shards, lambda folder: find_training_folder(folder, 128)):
        with pytest.raises(InputError, match=rf"{tmp_path} .*Permission denied"):
            look(tmp_path)
