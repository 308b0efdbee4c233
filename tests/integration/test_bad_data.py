"""Damaged training records: refused with file, record and byte, or skipped, reproducibly, also when resumed."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
from pathlib import Path

import pytest
from bert_large.data.formats.tfrecord import HEADER_BYTES
from bert_large.data.index import BESIDE, scan_shard

from tests.support.runs import Task, run_here, run_torchrun, step_rows, without_timings


def damage(path: Path, record: int) -> int:
    """Flip a bit of a record as a failing disk does, without changing the file's times; return the record's offset."""
    offset, stat = int(scan_shard(path, max_bad_records=9).offsets[record]), path.stat()
    content = bytearray(path.read_bytes())
    content[offset + HEADER_BYTES + 5] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    return offset


@pytest.fixture
def copy(task: Task, tmp_path: Path) -> Task:
    """The task with a copy of the data, to be damaged, and without evaluation."""
    shutil.copytree(task.dataset_dir, tmp_path / "data", ignore=shutil.ignore_patterns(BESIDE))
    return dataclasses.replace(task, dataset_dir=tmp_path / "data", settings={**task.settings, "eval_dir": "none"})


def shard_of(task: Task) -> Path:
    return task.dataset_dir / "seq_128" / "part-00001-of-00003"


SKIP = {"bad_records": "skip", "max_bad_records": 2}


def test_skipped_from_the_start(copy: Task, tmp_path: Path) -> None:
    """The log and the index list the record; a run that is stopped and resumed is equal to the last bit."""
    offset = damage(shard_of(copy), 3)
    whole = copy.run(tmp_path / "whole", **SKIP)
    log = (whole / "train.log").read_text()
    assert f"bad record skipped: {shard_of(copy)}: record 3 at byte {offset}: " in log
    assert "1 bad records skipped" in log
    listed = [
        json.loads(path.read_text())["bad_records"] for path in shard_of(copy).parent.joinpath(BESIDE).glob("*.json")
    ]
    assert sorted(map(len, listed)) == [0, 0, 1]
    parts = tmp_path / "parts"
    copy.run(parts, **SKIP, max_steps=3, total_steps=8)
    copy.run(parts, **SKIP)
    assert without_timings(step_rows(parts)) == without_timings(step_rows(whole))
    assert (parts / "model_save/model.safetensors").read_bytes() == (
        whole / "model_save/model.safetensors"
    ).read_bytes()


def test_damage_during_the_run(copy: Task, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The stored index does not show it. Reading does: the run stops, and continues with "skip".

    Interrupted anywhere, the run is equal bit for bit. It has the same samples as a run that skipped the record from
    the start, whose micro-batches are cut at other places.
    """
    parts, other = tmp_path / "parts", tmp_path / "other"
    copy.run(parts, max_steps=1, total_steps=8)
    offset = damage(shard_of(copy), 3)
    capsys.readouterr()
    assert run_here(*copy.arguments(parts, save_every=1)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"bert-large pretrain: error: {shard_of(copy)}: record 3 at byte {offset}: ")
    assert 1 <= len(step_rows(parts)) < 7
    shutil.copytree(parts, other)
    copy.run(parts, **SKIP, max_steps=7, total_steps=8)
    assert f"bad record skipped: {shard_of(copy)}: record 3 at byte {offset}" in (parts / "train.log").read_text()
    copy.run(parts, **SKIP)
    copy.run(other, **SKIP)
    assert without_timings(step_rows(parts)) == without_timings(step_rows(other))
    assert (parts / "model_save/model.safetensors").read_bytes() == (
        other / "model_save/model.safetensors"
    ).read_bytes()
    whole = copy.run(tmp_path / "whole", **SKIP)
    for ours, theirs in zip(step_rows(parts), step_rows(whole), strict=True):
        assert ours["masked_lm_loss"] == pytest.approx(theirs["masked_lm_loss"], rel=2e-6)


def test_too_many(copy: Task, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """At the start. A record that is found to be bad during training counts with those."""
    for record in range(3):
        damage(shard_of(copy), record)
    assert run_here(*copy.arguments(tmp_path / "out", **SKIP)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(r"record 2 at byte \d+: .* --max-bad-records 2 ", line)
    assert not (tmp_path / "out" / "metrics.jsonl").exists()
    many = {"bad_records": "skip", "max_bad_records": 3}
    copy.run(tmp_path / "out", **many, max_steps=1, total_steps=8)
    damage(shard_of(copy), 9)
    assert run_here(*copy.arguments(tmp_path / "out", **many)) == 2
    assert "record 9 at byte" in capsys.readouterr().err
    copy.run(tmp_path / "out", **many | {"max_bad_records": 4})


def test_a_changed_shard_at_resume(copy: Task, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Records of the same lengths with other words are other data than those of the run."""
    copy.run(tmp_path / "out", max_steps=1, total_steps=8)
    last = copy.dataset_dir / "seq_128" / "part-00002-of-00003"
    good, stat = last.read_bytes(), last.stat()
    damage(last, 0)
    os.utime(last, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert run_here(*copy.arguments(tmp_path / "out")) == 2
    assert f"{last}: record 0 at byte 0: " in capsys.readouterr().err
    assert run_here(*copy.arguments(tmp_path / "out", **SKIP)) == 2
    assert re.search(r"\bdata\b", capsys.readouterr().err)
    last.write_bytes(good)
    copy.run(tmp_path / "out")


def test_held_out_records_are_never_skipped(task: Task, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Metrics of an evaluation on fewer records would not be comparable."""
    shutil.copytree(task.dataset_dir / "eval", tmp_path / "eval", ignore=shutil.ignore_patterns(BESIDE))
    (shard,) = (tmp_path / "eval").iterdir()
    damage(shard, 5)
    assert run_here(*task.arguments(tmp_path / "out", eval_dir=tmp_path / "eval", **SKIP)) == 2
    assert f"{shard}: record 5 at byte" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"bad_records": "ignore"}, "--bad-records"),
        ({"max_bad_records": 0}, "--max-bad-records"),
    ],
)
def test_wrong_settings(
    task: Task, tmp_path: Path, changes: dict[str, object], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_here(*task.arguments(tmp_path / "out", **changes)) == 2
    assert expected in capsys.readouterr().err


@pytest.mark.slow
def test_two_ranks_skip_as_one(copy: Task, tmp_path: Path) -> None:
    """One record is bad at the start, another one is damaged later."""
    damage(shard_of(copy), 3)
    runs = [tmp_path / "one", tmp_path / "two"]
    for run in runs:
        copy.run(run, **SKIP, max_steps=1, total_steps=8)
    offset = damage(shard_of(copy), 12)
    copy.run(runs[0], **SKIP)
    done = run_torchrun(2, *copy.arguments(runs[1], **SKIP))
    assert done.returncode == 0, done.stderr
    assert (runs[1] / "train.log").read_text().count(f"record 12 at byte {offset}") == 1
    for ours, theirs in zip(step_rows(runs[1]), step_rows(runs[0]), strict=True):
        assert ours["masked_lm_loss"] == pytest.approx(theirs["masked_lm_loss"], rel=2e-6)


@pytest.mark.slow
def test_two_ranks_count_together(copy: Task, tmp_path: Path) -> None:
    """Whichever rank finds a bad record: one too many ends the run, and the log has those before."""
    copy.run(tmp_path / "out", **SKIP, max_steps=1, total_steps=8)
    for record in (3, 12, 13):  # 12 is read by one of the ranks, the others by the other
        damage(shard_of(copy), record)
    done = run_torchrun(2, *copy.arguments(tmp_path / "out", **SKIP))
    assert done.returncode == 2, done.stderr
    assert "--max-bad-records 2" in done.stderr
    assert (tmp_path / "out" / "train.log").read_text().count("bad record skipped") == 2
    assert len(step_rows(tmp_path / "out")) < 8
