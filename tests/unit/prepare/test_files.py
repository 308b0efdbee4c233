from __future__ import annotations

from pathlib import Path

import pytest
from bert_large.errors import InputError
from bert_large.prepare.files import check_outputs, list_input_files


def test_input_files_are_regular_visible_and_sorted(tmp_path: Path) -> None:
    for name in ("b", "a", ".hidden", "c"):
        (tmp_path / name).touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert [path.name for path in list_input_files(tmp_path)] == ["a", "b", "c", "link"]


def test_input_folder_must_be_there_and_hold_files(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / ".hidden").touch()
    for name, message in (("none", "found nothing"), ("file", "found a file"), ("empty", "found no files")):
        with pytest.raises(InputError, match=rf"{name}: {message}"):
            list_input_files(tmp_path / name)


def test_outputs_are_refused_if_present_unless_overwritten(tmp_path: Path) -> None:
    outputs = [tmp_path / "out" / "a", tmp_path / "out" / "b"]
    check_outputs(outputs, input_dir=tmp_path, overwrite=False)
    outputs[1].touch()
    with pytest.raises(InputError, match=r"1 of 2 output files exist already, first .*b; give --overwrite"):
        check_outputs(outputs, input_dir=tmp_path, overwrite=False)
    check_outputs(outputs, input_dir=tmp_path, overwrite=True)


def test_outputs_that_cannot_be_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(InputError, match="is the input folder"):
        check_outputs([tmp_path / "x"], input_dir=tmp_path / "link", overwrite=True)
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match="cannot be made"):
            check_outputs([folder / "x"], input_dir=tmp_path, overwrite=True)
    with pytest.raises(InputError, match="is a folder"):
        check_outputs([tmp_path], input_dir=tmp_path, overwrite=True)
