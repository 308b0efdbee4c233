"""Steps without a finite loss or gradient: no update, counted, resumed alike, and the end of the run when too many."""

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
from bert_large.train import bad_steps
from bert_large.train.checkpoint import list_checkpoints, read_state
from bert_large.train.step import StepRunner
from safetensors.torch import load_file

from tests.support.models import tiny_config, tiny_model
from tests.support.runs import Task, run_here, run_torchrun, step_rows, without_timings

BadAt = Callable[[set[int]], None]


@pytest.fixture
def bad_at(monkeypatch: pytest.MonkeyPatch) -> BadAt:
    """Return a function that makes steps (from 1) have a loss that is not a number."""
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


def test_skipped_steps_are_no_updates(task: Task, tmp_path: Path, bad_at: BadAt) -> None:
    """Metrics count them; the optimizer's count is of updates; the loss's trend is of steps with one."""
    bad_at({3, 4, 6})
    run = task.run(tmp_path, save_every=1, keep_checkpoints=9, eval_dir="none")
    rows = step_rows(run)
    assert [row["masked_lm_loss"] is None for row in rows] == [False, False, True, True, False, True, False, False]
    assert [row["skipped_updates"] for row in rows] == [0, 0, 1, 2, 2, 3, 3, 3]
    saved = {read_state(path)[0].step: path for path in list_checkpoints(run / "checkpoints")}
    assert list(saved) == [1, 2, 5, 7, 8]  # none amid bad steps: they would push out those before
    before, after = weights(saved[2]), weights(saved[5])
    assert any(not torch.equal(before[name], after[name]) for name in before)
    progress = read_state(saved[8])[0]
    assert (progress.updates, progress.skipped.total, progress.skipped.in_a_row) == (5, 3, 0)
    assert progress.loss_trend.steps == 5
    assert "step 4: loss nan, gradient norm" in (run / "train.log").read_text()


@pytest.mark.parametrize("stop", [3, 4, 5])
def test_stopped_and_resumed(task: Task, tmp_path: Path, bad_at: BadAt, stop: int) -> None:
    """Before, amid and after bad steps: bit for bit, the state of the checkpoint too."""
    bad_at({4, 5})
    whole, parts = task.run(tmp_path / "whole", eval_dir="none"), tmp_path / "parts"
    task.run(parts, max_steps=stop, total_steps=8, eval_dir="none")
    task.run(parts, eval_dir="none")
    assert without_timings(step_rows(parts)) == without_timings(step_rows(whole))
    for name in ("model.safetensors", "optimizer.safetensors", "state.json"):
        last = f"checkpoints/step-00000008/{name}"
        assert (parts / last).read_bytes() == (whole / last).read_bytes(), name


def test_too_many_in_a_row(task: Task, tmp_path: Path, bad_at: BadAt, capsys: pytest.CaptureFixture[str]) -> None:
    """The run ends with the reason and the records of its bad batches; resumed amid them it ends at the same step."""
    bad_at({2, 4, 5, 6, 7})
    arguments = task.arguments(tmp_path, max_bad_steps=3, save_every=5, eval_dir="none")
    for _ in range(2):
        assert run_here(*arguments) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert "error: step 6: loss nan" in line and "as in 3 steps in a row (--max-bad-steps). " in line
        assert f"{tmp_path / 'bad_batch.json'} lists their records; the same command goes through them again" in line
        assert [row["step"] for row in step_rows(tmp_path)] == [1, 2, 3, 4, 5]
        assert not (tmp_path / "model_save").exists() and not (tmp_path / "ended.json").exists()
    report = json.loads((tmp_path / "bad_batch.json").read_text())
    assert report["reason"].startswith("step 6: loss nan")
    assert [batch["step"] for batch in report["batches"]] == [4, 5, 6]
    samples = [sample for batch in report["batches"] for sample in batch["samples"]]
    assert [sample["sample"] for sample in samples] == list(range(24, 48))
    starts = [0, 17, 34]  # fifty records in three shards
    numbers = [starts[int(Path(sample["file"]).name[5:10])] + sample["record"] for sample in samples]
    assert numbers == SampleOrder(50, 42).record_numbers(24, 48).tolist()
    bad_at(set())
    task.run(tmp_path, max_bad_steps=3, eval_dir="none")


def test_weights_that_are_not_finite(task: Task, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every step is bad: the run ends after five, by default."""
    model = tiny_model()
    with torch.no_grad():
        model.cls.predictions.bias[0] = float("nan")
    save_model(tmp_path / "nan", model, tiny_config(), None)
    given = {"checkpoint_dir": tmp_path / "nan", "eval_dir": "none"}
    assert run_here(*task.arguments(tmp_path / "out", **given)) == 1
    assert "error: step 5: loss nan" in capsys.readouterr().err


@pytest.mark.slow
def test_ranks_end_together(task: Task, tmp_path: Path) -> None:
    """Both find the same, and one writes."""
    model = tiny_model()
    with torch.no_grad():
        model.cls.predictions.bias[0] = float("nan")
    save_model(tmp_path / "nan", model, tiny_config(), None)
    given = {"checkpoint_dir": tmp_path / "nan", "eval_dir": "none", "max_bad_steps": 2}
    done = run_torchrun(2, *task.arguments(tmp_path / "out", **given))
    assert done.returncode != 0
    assert done.stderr.count("error: step 2: loss nan") == 2
    report = json.loads((tmp_path / "out" / "bad_batch.json").read_text())
    assert [len(batch["samples"]) for batch in report["batches"]] == [8, 8]


def test_divergence(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """The rule's mean is over two steps here; the run that is resumed in between ends at the same step."""
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
    assert f"error: step {expected}: the mean masked-LM loss of about 100 steps is {means[expected - 1]:.4f}, " in error
    assert f"{rises[expected - 1]:.4f} above its lowest; --detect-divergence allows {limit:g}" in error
    assert [row["step"] for row in step_rows(tmp_path / "watched")] == list(range(1, expected + 1))
    task.run(tmp_path / "watched", eval_dir="none")
    assert without_timings(step_rows(tmp_path / "watched")) == without_timings(step_rows(tmp_path / "free"))
