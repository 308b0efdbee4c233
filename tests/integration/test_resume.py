"""A run that was stopped, killed or sent back gives the same result as an undisturbed one, bit for bit."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from bert_large.storage.integrity import write_checksums
from bert_large.train import state
from bert_large.train import step as step_module
from bert_large.train.state import LossScale
from safetensors.torch import load_file, save_file

from tests.support.runs import (
    Task,
    assert_same_run,
    finish,
    run_here,
    start_process,
    step_rows,
    wait_for_steps,
    without_timings,
)


def test_stop_and_resume(task: Task, finished: Path, tmp_path: Path) -> None:
    """Half the steps, then the others, with dropout and across the end of an epoch."""
    task.run(tmp_path, max_steps=4, total_steps=8, eval_dir="none")
    assert [row["step"] for row in step_rows(tmp_path)] == [1, 2, 3, 4]
    half = without_timings(step_rows(tmp_path))
    task.run(tmp_path, eval_dir="none")
    assert without_timings(step_rows(tmp_path))[:4] == half
    assert without_timings(step_rows(tmp_path)) == without_timings(step_rows(finished))
    for name in ("model_save/model.safetensors", "checkpoints/step-00000008/optimizer.safetensors"):
        assert (tmp_path / name).read_bytes() == (finished / name).read_bytes(), name
    assert "resuming after step 4 from" in (tmp_path / "train.log").read_text()


@pytest.mark.parametrize("step", [1, 3, 5])
def test_sigterm(task: Task, finished: Path, tmp_path: Path, signal_at: Any, step: int) -> None:
    """The current step is finished and saved, the exit code is 128 + 15, and a due evaluation runs on resume."""
    signal_at(step)
    assert run_here(*task.arguments(tmp_path)) == 143
    assert [row["step"] for row in step_rows(tmp_path)] == list(range(1, step + 1))
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == [f"step-{step:08d}"]
    assert not (tmp_path / "model_save").exists() and not (tmp_path / "ended.json").exists()
    task.run(tmp_path)
    assert_same_run(tmp_path, finished)


def test_fp16_with_its_loss_scale(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Overflows at the start, and growth every third step: stopped between them and resumed, bit for bit.

    The first update comes after several skipped steps, so the optimizer counts fewer updates than there are steps.
    """
    monkeypatch.setattr(state, "GROWTH_INTERVAL", 3)
    initial = LossScale(2.0**21)
    monkeypatch.setattr(step_module, "LossScale", lambda: initial)
    settings = {"precision": "fp16", "engine": "auto", "max_steps": 14, "total_steps": 14, "eval_dir": "none"}
    whole = task.run(tmp_path / "whole", **settings)
    skipped = [row["step"] for row in step_rows(whole) if row["gradient_norm"] is None]
    assert skipped[:2] == [1, 2] and len(skipped) < 10
    for stops in ([1], [skipped[-1] - 1, skipped[-1] + 2]):
        parts = tmp_path / str(stops)
        for stop in stops:
            task.run(parts, **settings | {"max_steps": stop})
        task.run(parts, **settings)
        assert without_timings(step_rows(parts)) == without_timings(step_rows(whole))
        last = "checkpoints/step-00000014"
        for name in ("model_save/model.safetensors", f"{last}/optimizer.safetensors", f"{last}/state.json"):
            assert (parts / name).read_bytes() == (whole / name).read_bytes(), name
    assert f"{2.0**20:g}" in (whole / "train.log").read_text()


def test_an_ended_run_has_nothing_to_do(task: Task, finished: Path, tmp_path: Path, capsys: Any) -> None:
    """Started again, for example by a job script, it succeeds and changes only its log and the lock file."""
    unchanged = (path for path in finished.rglob("*") if path.is_file() and path.name not in ("train.log", ".lock"))
    before = {path: path.read_bytes() for path in unchanged}
    task.run(finished)
    assert "nothing to do: the run in" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in before} == before


def test_an_ended_run_can_be_extended(task: Task, finished: Path, tmp_path: Path) -> None:
    """By a higher max-samples."""
    task.run(tmp_path, max_samples=40)
    assert len(step_rows(tmp_path)) == 5
    task.run(tmp_path)
    assert without_timings(step_rows(tmp_path)) == without_timings(step_rows(finished))


def test_going_back_to_a_checkpoint(task: Task, finished: Path, tmp_path: Path) -> None:
    """Steps after it are trained again, and later checkpoints are deleted, as they would be wrong to resume from."""
    task.run(tmp_path, save_every=2, keep_checkpoints=9, max_steps=6, total_steps=8, eval_dir="none")
    chosen = tmp_path / "checkpoints" / "step-00000002"
    task.run(tmp_path, resume=chosen, max_steps=3, total_steps=8, eval_dir="none")
    assert [row["step"] for row in step_rows(tmp_path)] == [1, 2, 3]
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-00000002", "step-00000003"]
    task.run(tmp_path, eval_dir="none")
    assert without_timings(step_rows(tmp_path)) == without_timings(step_rows(finished))


@pytest.mark.parametrize("refusal", ["ended", "no space", "damaged weights", "unknown vocabulary", "MLPerf log"])
def test_a_refused_run_deletes_nothing(
    task: Task, tmp_path: Path, refusal: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would go back to step 2; whatever refuses it comes before checkpoints, metrics and `ended.json` change."""
    settings: dict[str, Any] = {"save_every": 2, "keep_checkpoints": 9, "total_steps": 8, "eval_dir": "none"}
    task.run(tmp_path / "out", max_steps=6, **settings)
    chosen = tmp_path / "out" / "checkpoints" / "step-00000002"
    changes: dict[str, Any] = {"resume": chosen, "max_steps": 6 if refusal == "ended" else 7}
    if refusal == "no space":
        monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6 - 5000, 5000))
    elif refusal == "damaged weights":
        model = load_file(chosen / "model.safetensors")
        model["cls.predictions.bias"][0] = float("nan")
        save_file(model, chosen / "model.safetensors")
        write_checksums(chosen)
    elif refusal == "unknown vocabulary":
        changes["vocab_file"] = tmp_path / "nowhere.txt"
    elif refusal == "MLPerf log":
        pytest.importorskip("mlperf_logging")
        changes |= {"mlperf_log": tmp_path / "log", "eval_dir": task.dataset_dir / "eval"}
    changing = {"train.log", ".lock"}
    files = (path for path in (tmp_path / "out").rglob("*") if path.is_file())
    before = {path: path.read_bytes() for path in files if not changing & set(path.parts)}
    expected = {"ended": 0, "no space": 1}.get(refusal, 2)
    assert run_here(*task.arguments(tmp_path / "out", **{**settings, **changes})) == expected
    assert {path: path.read_bytes() for path in before} == before


def test_other_initial_weights_are_refused(
    task: Task, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They would be ignored, as the run resumes from its own checkpoint."""
    task.run(tmp_path, max_steps=2, total_steps=8, eval_dir="none")
    given = {"checkpoint_dir": finished / "model_save", "eval_dir": "none"}
    assert run_here(*task.arguments(tmp_path, **given)) == 2
    error = capsys.readouterr().err
    assert f"CHECKPOINT_DIR {finished / 'model_save'}" in error and str(tmp_path) in error


@pytest.mark.parametrize(("first", "then"), [("eager", "native"), ("native", "eager")])
def test_another_engine(task: Task, finished: Path, tmp_path: Path, first: str, then: str) -> None:
    """The engine may change on resume: the losses are those of one engine, up to float summation order."""
    task.run(tmp_path, max_steps=4, total_steps=8, engine=first, eval_dir="none")
    task.run(tmp_path, engine=then)
    log = (tmp_path / "train.log").read_text()
    assert log.index(f"engine {first}") < log.index(f"engine {then}")
    for ours, theirs in zip(step_rows(tmp_path), step_rows(finished), strict=True):
        for name in ("masked_lm_loss", "next_sentence_loss", "gradient_norm"):
            assert ours[name] == pytest.approx(theirs[name], rel=2e-6), (ours["step"], name)


def test_settings_that_do_not_change_the_result(task: Task, finished: Path, tmp_path: Path) -> None:
    """They may change on resume: here the number of data workers, and how often the run is saved."""
    task.run(tmp_path, max_steps=5, total_steps=8, save_every=1, keep_checkpoints=1, data_workers=1, eval_dir="none")
    task.run(tmp_path, save_every=3, eval_dir="none")
    assert without_timings(step_rows(tmp_path)) == without_timings(step_rows(finished))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129), (signal.SIGKILL, -9)]
)
def test_a_process_may_end_at_any_moment(task: Task, tmp_path: Path, how: signal.Signals, code: int) -> None:
    """By a request or by a kill; resumed, it gives the result of an undisturbed run, and records no step twice."""
    settings = {"max_steps": 40, "save_every": 7, "data_workers": 1, "eval_every_samples": 100}
    process = start_process(*task.arguments(tmp_path / "disturbed", **settings))
    wait_for_steps(tmp_path / "disturbed", 12)
    process.send_signal(how)
    (done,) = finish([process])
    assert done.returncode == code, done.stderr
    assert 12 <= len(step_rows(tmp_path / "disturbed")) < 40
    task.run(tmp_path / "disturbed", **settings)
    assert_same_run(tmp_path / "disturbed", task.run(tmp_path / "undisturbed", **settings))
