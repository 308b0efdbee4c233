"""Runs on data in several windows: the index is shared, made while training runs, and never changes the result."""

from __future__ import annotations

import dataclasses
import shutil
import signal
from pathlib import Path

import pytest
from bert_large.data.index import BESIDE
from bert_large.train import datasets
from bert_large.train.indexing import WINDOWS_FILE

from tests.support.records import make_records, write_shard
from tests.support.runs import (
    Task,
    assert_same_losses,
    finish,
    run_here,
    run_torchrun,
    start_process,
    step_rows,
    wait_for_steps,
    without_timings,
)


@pytest.fixture(autouse=True)
def no_time_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise such small data are indexed before the first step."""
    monkeypatch.setattr(datasets, "_START_SECONDS", 0.0)


WINDOW_GB = 11e-6
"""Two of the shards."""


@pytest.fixture(scope="module")
def windows(task: Task, tmp_path_factory: pytest.TempPathFactory) -> Task:
    """Six shards of eight records in three windows: two steps each, then a second epoch."""
    folder, records = tmp_path_factory.mktemp("windows") / "data", make_records(48)
    for number in range(6):
        write_shard(folder / "seq_128" / f"part-{number}", records[8 * number :][:8])
    settings = task.settings | {"eval_dir": "none", "shuffle_window": WINDOW_GB, "save_every": 1, "keep_checkpoints": 9}
    return Task(folder, task.config_file, settings)


@pytest.fixture(scope="module")
def whole(windows: Task, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    return windows.run(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def fresh(windows: Task, tmp_path: Path) -> Task:
    """The same records without any index."""
    ignored = shutil.ignore_patterns(BESIDE)
    shutil.copytree(windows.dataset_dir, tmp_path / "fresh", ignore=ignored)
    return dataclasses.replace(windows, dataset_dir=tmp_path / "fresh")


def indexed(task: Task) -> list[str]:
    folder = task.dataset_dir / "seq_128" / BESIDE
    return sorted(path.name.split(".")[0] for path in folder.glob("*.json"))


def model_of(run: Path) -> bytes:
    return (run / "model_save/model.safetensors").read_bytes()


def test_a_run_starts_with_the_first_window(fresh: Task, whole: Path, tmp_path: Path) -> None:
    """Nothing else is indexed for a step. The run that continues, on a partial index, is equal bit for bit."""
    fresh.run(tmp_path / "bench", benchmark=True, max_steps=1, data_workers=0)
    assert len(indexed(fresh)) == 2
    assert "these are the first of 3 windows" in (tmp_path / "bench" / "train.log").read_text()
    out = tmp_path / "out"
    for steps in (1, 3, 6):
        fresh.run(out, max_steps=steps, total_steps=8)
    shutil.rmtree(fresh.dataset_dir / "seq_128" / BESIDE)
    fresh.run(out)
    assert without_timings(step_rows(out)) == without_timings(step_rows(whole))
    assert model_of(out) == model_of(whole)
    assert len(indexed(fresh)) == 6


def test_small_data_are_indexed_before_the_first_step(
    fresh: Task, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is left for the background; the order is the same."""
    monkeypatch.setattr(datasets, "_START_SECONDS", 60.0)
    monkeypatch.setattr("bert_large.train.indexing.BackgroundIndexing", None)
    out = fresh.run(tmp_path / "out", max_steps=1, total_steps=8)
    assert len(indexed(fresh)) == 6
    assert without_timings(step_rows(out)) == without_timings(step_rows(whole))[:1]


def test_any_number_of_ranks(fresh: Task, whole: Path, tmp_path: Path) -> None:
    done = run_torchrun(2, *fresh.arguments(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert_same_losses(tmp_path / "out", whole)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_killed_while_it_indexes(fresh: Task, whole: Path, tmp_path: Path, how: signal.Signals) -> None:
    """No helper process stays, and the next run continues."""
    out = tmp_path / "out"
    process = start_process(*fresh.arguments(out))
    wait_for_steps(out, 1)
    process.send_signal(how)
    finish([process])
    fresh.run(out)
    assert without_timings(step_rows(out)) == without_timings(step_rows(whole))
    assert model_of(out) == model_of(whole)


def test_a_second_run_scans_nothing(
    windows: Task, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one with another output folder, seed and size of windows."""
    monkeypatch.setattr("bert_large.data.index.scan_shard", lambda *_: pytest.fail("scanned again"))
    windows.run(tmp_path / "out", seed=7, shuffle_window=0, max_steps=1)
    assert not (tmp_path / "out" / "data_index").exists() and not (tmp_path / "out" / WINDOWS_FILE).exists()


def test_an_index_folder_of_the_user(fresh: Task, tmp_path: Path) -> None:
    fresh.run(tmp_path / "out", max_steps=1, index_dir=tmp_path / "index")
    assert list((tmp_path / "index").glob("*.json")) and not (fresh.dataset_dir / "seq_128" / BESIDE).exists()


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def test_a_bad_record_in_a_later_window(fresh: Task, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The run ends when it is found, at the latest before the step that needs it; or it is skipped, as ever."""
    last = fresh.dataset_dir / "seq_128" / _shards(fresh, tmp_path)[-1]
    truncate(last)
    capsys.readouterr()
    assert run_here(*fresh.arguments(tmp_path / "out")) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"bert-large pretrain: error: {last}: record 7 at byte ")
    assert len(step_rows(tmp_path / "out")) <= 4
    skip = {"bad_records": "skip", "max_bad_records": 2}
    out = fresh.run(tmp_path / "skip", **skip)
    assert (out / "train.log").read_text().count(f"bad record skipped: {last}: record 7 at byte ") == 1
    parts = tmp_path / "parts"
    for steps in (3, 5):
        fresh.run(parts, **skip, max_steps=steps, total_steps=8)
    fresh.run(parts, **skip)
    assert without_timings(step_rows(parts)) == without_timings(step_rows(out))
    assert model_of(parts) == model_of(out)


def _shards(task: Task, tmp_path: Path) -> list[str]:
    """Return the names of the shards in the order in which the first epoch uses them."""
    from bert_large.data.dataset import Dataset
    from bert_large.data.windows import WindowSettings

    windows = WindowSettings(round(WINDOW_GB * 1e9), 42)
    dataset = Dataset.open(task.dataset_dir / "seq_128", tmp_path / "order", build=True, windows=windows)
    return [path.name for path in dataset.paths]


def test_records_that_changed_at_resume(fresh: Task, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run on several windows knows the records that it has trained on, and the sizes of all files."""
    out, (first, *_, last) = tmp_path / "out", _shards(fresh, tmp_path)
    folder = fresh.dataset_dir / "seq_128"
    fresh.run(out, max_steps=3, total_steps=8)
    good = {name: ((folder / name).read_bytes(), (folder / name).stat()) for name in (first, last)}
    write_shard(folder / "other", make_records(20)[12:])
    assert run_here(*fresh.arguments(out)) == 2  # one shard more
    (folder / "other").unlink()
    write_shard(folder / first, list(reversed(make_records(48)[8 * int(first[-1]) :][:8])))
    assert (folder / first).stat().st_size == len(good[first][0])
    capsys.readouterr()
    assert run_here(*fresh.arguments(out)) == 2
    assert f"the records of {folder / first} " in capsys.readouterr().err
    (folder / first).write_bytes(good[first][0])
    fresh.run(out)
    assert not (out / "data_index").exists()


def test_another_size_of_windows_is_another_run(
    windows: Task, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its samples have another order. In one window, the order is that of runs of earlier versions."""
    shutil.copytree(whole, tmp_path / "out")
    for shuffle_window in (0, 1, WINDOW_GB / 2):
        capsys.readouterr()
        assert run_here(*windows.arguments(tmp_path / "out", shuffle_window=shuffle_window)) == 2
        assert "shuffle_window was" in capsys.readouterr().err
    one = windows.run(tmp_path / "one", shuffle_window=0, max_steps=4, total_steps=8)
    windows.run(one, shuffle_window=1)
    assert without_timings(step_rows(one)) != without_timings(step_rows(whole))


def test_file_order(windows: Task, tmp_path: Path) -> None:
    """Windows do not change it."""
    orders = [
        windows.run(tmp_path / str(size), no_shuffle=True, shuffle_window=size) for size in (0, WINDOW_GB)
    ]  # fmt: skip
    assert without_timings(step_rows(orders[0])) == without_timings(step_rows(orders[1]))


def test_a_wrong_window(windows: Task, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for value in ("-1", "nan", "all"):
        assert run_here(*windows.arguments(tmp_path, shuffle_window=value)) == 2
        assert f"--shuffle-window is {value}" in capsys.readouterr().err.replace("'", "")
