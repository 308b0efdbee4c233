"""Steps without a finite loss or gradient make no update; too many of them, or bad weights, end the run."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bert_large.data.order import SampleOrder
from bert_large.model.pretrained import save_model
from bert_large.storage.integrity import write_checksums
from bert_large.train import bad_steps
from bert_large.train.checkpoint import list_checkpoints, read_state
from bert_large.train.step import StepRunner
from safetensors.torch import load_file, save_file

from tests.support.models import tiny_config, tiny_model
from tests.support.runs import Task, options, run_here, run_torchrun, step_rows, without_timings

BadAt = Callable[[set[int]], None]


@pytest.fixture
def bad_at(monkeypatch: pytest.MonkeyPatch) -> BadAt:
    """Return a function that makes the losses of steps (from 1) NaN."""
    forward_backward, run = StepRunner._forward_backward, StepRunner.run
    current = 0

    def arrange(steps: set[int]) -> None:
        def run_and_note(self: StepRunner, step: int, *arguments: Any) -> Any:
            nonlocal current
            current = step + 1
            return run(self, step, *arguments)

        def spoil(self: StepRunner, *arguments: Any) -> Any:
            sums = forward_backward(self, *arguments)
            if current in steps:
                sums = dataclasses.replace(sums, masked_lm_loss=sums.masked_lm_loss * float("nan"))
            return sums

        monkeypatch.setattr(StepRunner, "run", run_and_note)
        monkeypatch.setattr(StepRunner, "_forward_backward", spoil)

    return arrange


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_skipped_steps_make_no_updates(task: Task, tmp_path: Path, bad_at: BadAt) -> None:
    """Metrics count them; the optimizer and the trend of the loss count updates only."""
    bad_at({3, 4, 6})
    run = task.run(tmp_path, save_every=1, keep_checkpoints=9, eval_dir="none")
    rows = step_rows(run)
    assert [row["masked_lm_loss"] is None for row in rows] == [False, False, True, True, False, True, False, False]
    assert [row["skipped_updates"] for row in rows] == [0, 0, 1, 2, 2, 3, 3, 3]
    saved = {read_state(path)[0].step: path for path in list_checkpoints(run / "checkpoints")}
    assert list(saved) == [1, 2, 5, 7, 8]  # none amid bad steps, which would replace the ones before
    before, after = weights(saved[2]), weights(saved[5])
    assert any(not torch.equal(before[name], after[name]) for name in before)
    state = read_state(saved[8])[0]
    assert (state.updates, state.skipped.total, state.skipped.in_a_row) == (5, 3, 0)
    assert state.loss_trend.steps == 5
    assert "step 4: loss nan, gradient norm" in (run / "train.log").read_text()


@pytest.mark.parametrize("stop", [3, 4, 5, 6])
def test_stopped_and_resumed(
    task: Task, tmp_path: Path, bad_at: BadAt, signal_at: Callable[[int], None], stop: int
) -> None:
    """By a signal before, amid and after bad steps: the result is the same, including the state of the checkpoint."""
    bad_at({4, 5})
    settings = {"eval_dir": "none", "save_every": 3, "keep_checkpoints": 9}
    whole, parts = task.run(tmp_path / "whole", **settings), tmp_path / "parts"
    signal_at(stop)
    assert run_here(*task.arguments(parts, **settings)) == 143
    saved = [read_state(path)[0].step for path in list_checkpoints(parts / "checkpoints")]
    assert saved == ([3, 6] if stop == 6 else [3])
    task.run(parts, **settings)
    assert without_timings(step_rows(parts)) == without_timings(step_rows(whole))
    for name in ("model.safetensors", "optimizer.safetensors", "state.json"):
        last = f"checkpoints/step-00000008/{name}"
        assert (parts / last).read_bytes() == (whole / last).read_bytes(), name


def test_too_many_in_a_row(task: Task, tmp_path: Path, bad_at: BadAt, capsys: pytest.CaptureFixture[str]) -> None:
    """The run ends with the reason and the records of its bad batches; resumed, it ends at the same step."""
    bad_at({2, 4, 5, 6, 7})
    arguments = task.arguments(tmp_path, max_bad_steps=3, save_every=5, eval_dir="none")
    for _ in range(2):
        assert run_here(*arguments) == 1
        (line,) = capsys.readouterr().err.splitlines()
        for named in ("step 6", "--max-bad-steps", str(tmp_path / "bad_batch.json")):
            assert named in line
        assert [row["step"] for row in step_rows(tmp_path)] == [1, 2, 3, 4, 5]
        assert not (tmp_path / "model_save").exists() and not (tmp_path / "ended.json").exists()
    report = json.loads((tmp_path / "bad_batch.json").read_text())
    assert "step 6" in report["reason"]
    assert [batch["step"] for batch in report["batches"]] == [4, 5, 6]
    samples = [sample for batch in report["batches"] for sample in batch["samples"]]
    assert [sample["sample"] for sample in samples] == list(range(24, 48))
    starts = [0, 17, 34]  # fifty records in three shards
    numbers = [starts[int(Path(sample["file"]).name[5:10])] + sample["record"] for sample in samples]
    assert numbers == SampleOrder(50, 42).record_numbers(24, 48).tolist()
    bad_at(set())
    task.run(tmp_path, max_bad_steps=3, eval_dir="none")


def test_a_run_that_ends_amid_bad_steps_fails(
    task: Task, tmp_path: Path, bad_at: BadAt, capsys: pytest.CaptureFixture[str]
) -> None:
    """It keeps the last good checkpoint, and leaves no model; the same command repeats the bad steps."""
    bad_at({7, 8})
    arguments = task.arguments(tmp_path, save_every=2, keep_checkpoints=9, eval_dir="none")
    for _ in range(2):
        assert run_here(*arguments) == 1
        assert str(tmp_path / "bad_batch.json") in capsys.readouterr().err
        assert [read_state(path)[0].step for path in list_checkpoints(tmp_path / "checkpoints")] == [2, 4, 6]
        assert not (tmp_path / "model_save").exists() and not (tmp_path / "ended.json").exists()
    assert [batch["step"] for batch in json.loads((tmp_path / "bad_batch.json").read_text())["batches"]] == [7, 8]


def spoil(folder: Path) -> None:
    """Put NaN into the weights of a folder, with matching checksums, as older versions wrote it."""
    tensors = load_file(folder / "model.safetensors")
    tensors["cls.predictions.bias"][0] = float("nan")
    save_file(tensors, folder / "model.safetensors")
    write_checksums(folder)


@pytest.mark.parametrize("command", ["pretrain", "resume", "evaluate"])
def test_weights_that_are_not_finite_are_refused(
    task: Task, tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Wherever a model enters: the message names the file and the tensor."""
    save_model(tmp_path / "model", tiny_model(), tiny_config(), None)
    bad = tmp_path / "model"
    if command == "resume":
        task.run(tmp_path / "out", max_steps=2, total_steps=8, eval_dir="none")
        (bad,) = list_checkpoints(tmp_path / "out" / "checkpoints")
    spoil(bad)
    if command == "evaluate":
        words = ["evaluate", *options(checkpoint_dir=bad, eval_dir=task.dataset_dir / "eval", json=True)]
    else:
        given = {"checkpoint_dir": bad} if command == "pretrain" else {}
        words = task.arguments(tmp_path / "out", eval_dir="none", **given)
    assert run_here(*words) == 2
    printed = capsys.readouterr()
    assert str(bad / "model.safetensors") in printed.err and "cls.predictions.bias" in printed.err
    assert "nan" not in printed.out.lower()


@pytest.mark.slow
def test_ranks_end_together(task: Task, tmp_path: Path) -> None:
    """Both find the same bad steps, and one writes their records."""
    given = {"learning_rate": 1e30, "warmup_steps": 0, "eval_dir": "none", "max_bad_steps": 2}
    done = run_torchrun(2, *task.arguments(tmp_path / "out", **given))
    assert done.returncode != 0
    assert done.stderr.count("error: step 3: loss nan") == 2
    report = json.loads((tmp_path / "out" / "bad_batch.json").read_text())
    assert [len(batch["samples"]) for batch in report["batches"]] == [8, 8]


def test_divergence(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """With a mean over two steps here; a run that is resumed in between ends at the same step."""
    monkeypatch.setattr(bad_steps, "TREND_STEPS", 2)
    losses = [row["masked_lm_loss"] for row in step_rows(task.run(tmp_path / "free", eval_dir="none"))]
    means = [losses[0]]
    for number, loss in enumerate(losses[1:], start=2):
        means.append(means[-1] + (loss - means[-1]) / min(number, 2))
    rises = [mean - min(means[1 : number + 1]) if number else 0.0 for number, mean in enumerate(means)]
    limit = max(rises) / 2
    expected = next(number for number, rise in enumerate(rises, start=1) if rise > limit)
    assert 2 < expected <= 8
    given = {"detect_divergence": limit, "eval_dir": "none"}
    task.run(tmp_path / "watched", **given, max_steps=2, total_steps=8)
    assert run_here(*task.arguments(tmp_path / "watched", **given)) == 1
    error = capsys.readouterr().err
    for named in (f"step {expected}", f"{means[expected - 1]:.4f}", f"{rises[expected - 1]:.4f}", f"{limit:g}"):
        assert named in error
    assert [row["step"] for row in step_rows(tmp_path / "watched")] == list(range(1, expected + 1))
    task.run(tmp_path / "watched", eval_dir="none")
    assert without_timings(step_rows(tmp_path / "watched")) == without_timings(step_rows(tmp_path / "free"))
