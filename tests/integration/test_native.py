"""Training on the native engine against the eager engine: the same run, dropout on."""

from __future__ import annotations

from pathlib import Path

import pytest
from bert_large.engines.native import build

from tests.support.runs import Task, eval_rows, run_here, step_rows, without_timings

# Relative, of losses and gradient norms over eight steps.
TOLERANCE = 2e-6
FIGURES = ("masked_lm_loss", "next_sentence_loss", "gradient_norm")


@pytest.fixture(scope="module")
def eager(task: Task, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of the task on the eager engine."""
    return task.run(tmp_path_factory.mktemp("eager") / "out", engine="eager")


def test_native_is_eager_step_by_step(finished: Path, eager: Path) -> None:
    """Losses, gradient norms and evaluations over eight steps in micro-batches, and counts of right predictions."""
    assert "engine native: C++ kernels for " in (finished / "train.log").read_text()
    assert "engine eager: " in (eager / "train.log").read_text()
    ours, theirs = step_rows(finished), step_rows(eager)
    assert [row["step"] for row in ours] == [row["step"] for row in theirs] == list(range(1, 9))
    for row, its in zip(ours, theirs, strict=True):
        for name in FIGURES:
            assert row[name] == pytest.approx(its[name], rel=TOLERANCE), (row["step"], name)
        assert row["masked_lm_accuracy"] == its["masked_lm_accuracy"]
    for row, its in zip(eval_rows(finished), eval_rows(eager), strict=True):
        assert row["masked_lm_loss"] == pytest.approx(its["masked_lm_loss"], rel=TOLERANCE)
        assert row["masked_lm_accuracy"] == its["masked_lm_accuracy"]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_adamw(task: Task, tmp_path: Path, precision: str) -> None:
    """PyTorch's own optimizer on both engines: the copies of weights that native keeps follow it."""
    rows = []
    for engine in ("native", "eager"):
        settings = {"optimizer": "adamw", "learning_rate": 0.003, "precision": precision, "eval_dir": "none"}
        rows.append(step_rows(task.run(tmp_path / engine, engine=engine, **settings)))
    for row, its in zip(*rows, strict=True):
        tolerance = TOLERANCE if precision == "fp32" else 2e-3
        assert row["masked_lm_loss"] == pytest.approx(its["masked_lm_loss"], rel=tolerance), row["step"]


def test_bf16(task: Task, finished: Path, tmp_path: Path) -> None:
    """Native in bf16, losses near those in fp32 while the weights go the same way."""
    task.run(tmp_path, precision="bf16")
    for row, its in zip(step_rows(tmp_path), step_rows(finished), strict=True):
        assert row["masked_lm_loss"] == pytest.approx(its["masked_lm_loss"], rel=2e-3)
        assert row["masked_lm_loss"] != its["masked_lm_loss"]


def test_a_run_goes_on_with_another_engine(task: Task, finished: Path, tmp_path: Path) -> None:
    """Half on eager, half on native: weights, moments and order are the run's, not the engine's."""
    task.run(tmp_path, max_steps=4, total_steps=8, engine="eager", eval_dir="none")
    task.run(tmp_path, engine="native", eval_dir="none")
    rows = step_rows(tmp_path)
    assert [row["step"] for row in rows] == list(range(1, 9))
    for row, its in zip(rows, step_rows(finished), strict=True):
        for name in FIGURES:
            assert row[name] == pytest.approx(its[name], rel=TOLERANCE), (row["step"], name)


def test_stop_and_resume_on_eager(task: Task, eager: Path, tmp_path: Path) -> None:
    """Bit for bit, as tests/integration/test_resume.py has it of the engine that `auto` chooses."""
    task.run(tmp_path, max_steps=4, total_steps=8, engine="eager", eval_dir="none")
    task.run(tmp_path, engine="eager", eval_dir="none")
    assert without_timings(step_rows(tmp_path)) == without_timings(step_rows(eager))
    name = "model_save/model.safetensors"
    assert (tmp_path / name).read_bytes() == (eager / name).read_bytes()


@pytest.mark.parametrize("engine", ["auto", "native"])
def test_without_a_compiler(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], engine: str
) -> None:
    """Exit code 1 and one line that names the way out, also for `auto`: never another engine unsaid."""
    monkeypatch.setenv(build.FOLDER_VARIABLE, str(tmp_path / "kernels"))
    monkeypatch.setenv("CXX", "no-such-compiler")
    build.load_kernels.cache_clear()
    assert run_here(*task.arguments(tmp_path / "out", engine=engine)) == 1
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1
    assert "no-such-compiler was not found: install it" in error[0] and "use --engine eager" in error[0]
    assert not (tmp_path / "out" / "metrics.jsonl").exists()
    assert [path.name for path in (tmp_path / "kernels").iterdir()] == ["build.lock"]


def test_nothing_is_built_for_eager(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the messages promise: the eager engine needs neither compiler nor kernels."""
    monkeypatch.setenv(build.FOLDER_VARIABLE, str(tmp_path / "kernels"))
    monkeypatch.setenv("CXX", "no-such-compiler")
    task.run(tmp_path / "out", engine="eager", max_steps=1, eval_dir="none")
    assert not (tmp_path / "kernels").exists()
