"""Parts of `prepare` make the same folder, file by file and byte by byte, as one command."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from bert_large.data.folders import list_shards
from bert_large.doctor.data import check_data
from bert_large.doctor.finding import OK, PROBLEM
from bert_large.errors import InputError
from bert_large.prepare.casing import Casing
from bert_large.prepare.records import make_records
from bert_large.prepare.settings import InstanceSettings, RecordFileSettings
from bert_large.storage.lock import LOCK_FILE, FolderLock

from tests.support.runs import run_here


def prepare(text_dir: Path, vocab_file: Path, output_dir: Path, *options: str) -> int:
    folders = ["--input-dir", text_dir, "--vocab-file", vocab_file, "--output-dir", output_dir]
    return run_here("prepare", *map(str, folders), "--workers", "1", "--max-seq-length", "32", *options)


def content(folder: Path) -> dict[str, bytes]:
    """Return all files, hidden ones too, but for the lock."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != LOCK_FILE
    }


@pytest.fixture
def whole(tmp_path: Path, text_dir: Path, vocab_file: Path) -> dict[str, bytes]:
    """The files that one command makes of three texts."""
    assert prepare(text_dir, vocab_file, tmp_path / "whole") == 0
    return content(tmp_path / "whole")


@pytest.mark.parametrize("parts", ["1/1", "1/2 2/2", "3/3 1/3 2/3", "5/5 4/5 3/5 2/5 1/5"])
def test_parts_make_the_same_folder(
    tmp_path: Path, text_dir: Path, vocab_file: Path, whole: dict[str, bytes], parts: str
) -> None:
    """In any order; there may be more parts than files. The manifest comes with the last one."""
    for part in parts.split():
        assert not (tmp_path / "out" / "manifest.json").exists()
        assert prepare(text_dir, vocab_file, tmp_path / "out", "--part", part) == 0
    assert content(tmp_path / "out") == whole


def test_hdf5_files_keep_their_numbers(tmp_path: Path, text_dir: Path, vocab_file: Path) -> None:
    assert prepare(text_dir, vocab_file, tmp_path / "whole", "--format", "hdf5") == 0
    for part in ("2/2", "1/2"):
        assert prepare(text_dir, vocab_file, tmp_path / "out", "--format", "hdf5", "--part", part) == 0
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_parts_run_at_the_same_time(tmp_path: Path, text_dir: Path, vocab_file: Path, whole: dict[str, bytes]) -> None:
    def make(number: int) -> str:
        files = RecordFileSettings(workers=1, part=f"{number}/3")
        settings, out = InstanceSettings(max_seq_length=32), tmp_path / "out"
        return make_records(
            text_dir, vocab_file, out, settings, files, casing=Casing(True, True), log=lambda text: None
        )

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(make, (1, 2, 3)))
    assert content(tmp_path / "out") == whole


def test_a_part_continues_and_repairs(
    tmp_path: Path, text_dir: Path, vocab_file: Path, whole: dict[str, bytes]
) -> None:
    """Complete files are kept, damaged ones are made again: before the manifest is written, and after that."""
    out = tmp_path / "out"
    assert prepare(text_dir, vocab_file, out, "--part", "1/2") == 0  # two of three files
    kept = (out / "part-0").stat().st_mtime_ns
    (out / "part-2").write_bytes(b"damaged")
    assert prepare(text_dir, vocab_file, out, "--part", "1/2") == 0
    assert prepare(text_dir, vocab_file, out, "--part", "2/2") == 0
    (out / "part-1").unlink()
    assert prepare(text_dir, vocab_file, out, "--part", "2/2") == 0
    assert (out / "part-0").stat().st_mtime_ns == kept
    assert content(out) == whole


def test_a_command_without_parts_completes_them(
    tmp_path: Path, text_dir: Path, vocab_file: Path, whole: dict[str, bytes]
) -> None:
    out = tmp_path / "out"
    assert prepare(text_dir, vocab_file, out, "--part", "2/3") == 0
    kept = (out / "part-1").stat().st_mtime_ns
    assert prepare(text_dir, vocab_file, out) == 0
    assert (out / "part-1").stat().st_mtime_ns == kept
    assert content(out) == whole


def test_records_of_some_parts_are_not_trained_on(tmp_path: Path, text_dir: Path, vocab_file: Path) -> None:
    out = tmp_path / "seq_128"
    assert prepare(text_dir, vocab_file, out, "--part", "1/2", "--max-seq-length", "128") == 0
    with pytest.raises(InputError, match=rf"{out} .*\.part-1-of-2"):
        list_shards(out)
    (phase_1,) = check_data(tmp_path, 1)
    assert phase_1.level == PROBLEM and str(out) in phase_1.found
    assert run_here("pick", "--input-dir", str(out), "--output-file", str(tmp_path / "picked"), "--allow-fewer") == 2
    assert prepare(text_dir, vocab_file, out, "--part", "2/2", "--max-seq-length", "128") == 0
    assert [path.name for path in list_shards(out)] == ["part-0", "part-1", "part-2"]
    assert check_data(tmp_path, 1)[0].level == OK


def test_new_texts_after_the_manifest(tmp_path: Path, text_dir: Path, vocab_file: Path) -> None:
    out = tmp_path / "out"
    assert prepare(text_dir, vocab_file, out) == 0
    (text_dir / "part-3").write_bytes((text_dir / "part-0").read_bytes())
    for part in ("1/4", "4/4"):
        assert prepare(text_dir, vocab_file, out, "--part", part) == 0
    assert set(json.loads((out / "manifest.json").read_text())["outputs"]) == {f"part-{number}" for number in range(4)}


def test_parts_of_another_task_are_refused(
    tmp_path: Path, text_dir: Path, vocab_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare(text_dir, vocab_file, tmp_path / "out", "--part", "1/2") == 0
    for options in (("--part", "2/2"), ("--part", "1/2"), ()):
        capsys.readouterr()
        assert prepare(text_dir, vocab_file, tmp_path / "out", "--dupe-factor", "3", *options) == 2
        assert "dupe_factor was 10, now 3" in capsys.readouterr().err


@pytest.mark.parametrize("part", ["0/2", "3/2", "1", "1/", "/2", "a/b", "1/0", "-1/2", "1/2/3", "²/3"])
def test_wrong_parts(
    tmp_path: Path, text_dir: Path, vocab_file: Path, part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare(text_dir, vocab_file, tmp_path / "out", f"--part={part}") == 2
    assert f"--part is {part!r}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_parts_do_not_overwrite(tmp_path: Path, text_dir: Path, vocab_file: Path) -> None:
    assert prepare(text_dir, vocab_file, tmp_path / "out", "--part", "1/2", "--overwrite") == 2
    assert not (tmp_path / "out").exists()


def test_who_may_run_together(tmp_path: Path, text_dir: Path, vocab_file: Path) -> None:
    """Parts with each other, but neither a part twice nor a command without parts."""
    out = tmp_path / "out"
    (out / ".part-1-of-2").mkdir(parents=True)
    with FolderLock(out, "out", print, shared=True), FolderLock(out / ".part-1-of-2", "part", print):
        assert prepare(text_dir, vocab_file, out, "--part", "1/2") == 2
        assert prepare(text_dir, vocab_file, out) == 2
        assert prepare(text_dir, vocab_file, out, "--part", "2/2") == 0
    with FolderLock(out, "out", print):
        assert prepare(text_dir, vocab_file, out, "--part", "1/2") == 2
