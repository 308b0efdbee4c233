"""Training on every available engine against the eager engine: the same run, with dropout."""

from __future__ import annotations

from pathlib import Path

import pytest
from bert_large.cpp_library import FOLDER_VARIABLE
from bert_large.engines import available_engines, ipex
from bert_large.engines.native import build

from tests.support.runs import Task, eval_rows, run_here, run_torchrun, step_rows, without_timings

# Relative, of losses and gradient norms over eight steps.
TOLERANCE = 2e-6
METRICS = ("masked_lm_loss", "next_sentence_loss", "gradient_norm")
OTHERS = tuple(name for name in available_engines() if name != "eager")


@pytest.fixture(scope="module")
def eager(task: Task, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of the task on the eager engine."""
    return task.run(tmp_path_factory.mktemp("eager") / "out", engine="eager")


@pytest.fixture(scope="module", params=OTHERS)
def other(request: pytest.FixtureRequest, task: Task, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of the task on another engine, after which the folder is named."""
    return task.run(tmp_path_factory.mktemp("others") / request.param, engine=request.param)


def test_every_step_is_as_on_eager(other: Path, eager: Path) -> None:
    """Losses, gradient norms and evaluations over eight steps in micro-batches, and counts of correct predictions."""
    assert f"engine {other.name}: " in (other / "train.log").read_text()
    assert "engine eager: " in (eager / "train.log").read_text()
    assert_same_metrics(other, eager)
    for row, expected_row in zip(step_rows(other), step_rows(eager), strict=True):
        assert row["masked_lm_accuracy"] == expected_row["masked_lm_accuracy"]
    for row, expected_row in zip(eval_rows(other), eval_rows(eager), strict=True):
        assert row["masked_lm_loss"] == pytest.approx(expected_row["masked_lm_loss"], rel=TOLERANCE)
        assert row["masked_lm_accuracy"] == expected_row["masked_lm_accuracy"]


def assert_same_metrics(found: Path, expected: Path) -> None:
    """Compare losses and gradient norms of all eight steps."""
    rows = step_rows(found)
    assert [row["step"] for row in rows] == list(range(1, 9))
    for row, expected_row in zip(rows, step_rows(expected), strict=True):
        for name in METRICS:
            assert row[name] == pytest.approx(expected_row[name], rel=TOLERANCE), (row["step"], name)


@pytest.mark.parametrize("engine", OTHERS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_adamw(task: Task, tmp_path: Path, precision: str, engine: str) -> None:
    """PyTorch's optimizer on both engines: copies of weights are renewed after its updates."""
    rows = []
    for name in (engine, "eager"):
        settings = {"optimizer": "adamw", "learning_rate": 0.003, "precision": precision, "eval_dir": "none"}
        rows.append(step_rows(task.run(tmp_path / name, engine=name, **settings)))
    for row, expected_row in zip(*rows, strict=True):
        tolerance = TOLERANCE if precision == "fp32" else 2e-3
        assert row["masked_lm_loss"] == pytest.approx(expected_row["masked_lm_loss"], rel=tolerance), row["step"]


@pytest.mark.parametrize("engine", OTHERS)
def test_bf16(task: Task, eager: Path, tmp_path: Path, engine: str) -> None:
    """Losses are near those in fp32, and not equal to them."""
    task.run(tmp_path, precision="bf16", engine=engine)
    for row, expected_row in zip(step_rows(tmp_path), step_rows(eager), strict=True):
        assert row["masked_lm_loss"] == pytest.approx(expected_row["masked_lm_loss"], rel=2e-3)
        assert row["masked_lm_loss"] != expected_row["masked_lm_loss"]


@pytest.mark.parametrize("engine", OTHERS)
def test_resuming_with_another_engine_and_back(task: Task, eager: Path, tmp_path: Path, engine: str) -> None:
    """Steps on eager, another engine and eager: weights, moments and order do not depend on the engine."""
    for name, steps in (("eager", 3), (engine, 6), ("eager", 8)):
        task.run(tmp_path, max_steps=steps, total_steps=8, engine=name, eval_dir="none")
        assert f"engine {name}: " in (tmp_path / "train.log").read_text()
    assert_same_metrics(tmp_path, eager)


@pytest.mark.parametrize("engine", OTHERS)
def test_two_ranks(task: Task, eager: Path, tmp_path: Path, engine: str) -> None:
    """Each computes half of the batch; the losses are those of one rank on eager."""
    done = run_torchrun(2, *task.arguments(tmp_path, engine=engine, eval_dir="none"))
    assert done.returncode == 0, done.stderr
    assert_same_metrics(tmp_path, eager)


def test_stop_and_resume_on_eager(task: Task, eager: Path, tmp_path: Path) -> None:
    """Bit-identical, as in test_resume.py for the engine that `auto` chooses."""
    task.run(tmp_path, max_steps=4, total_steps=8, engine="eager", eval_dir="none")
    task.run(tmp_path, engine="eager", eval_dir="none")
    assert without_timings(step_rows(tmp_path)) == without_timings(step_rows(eager))
    name = "model_save/model.safetensors"
    assert (tmp_path / name).read_bytes() == (eager / name).read_bytes()


@pytest.mark.parametrize("engine", ["auto", "native"])
def test_without_a_compiler(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], engine: str
) -> None:
    """Exit code 1 and one line with the remedy, also for `auto`, which never falls back to eager."""
    monkeypatch.setattr(ipex, "find_fault", lambda: "not here")
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "kernels"))
    monkeypatch.setenv("CXX", "no-such-compiler")
    build.load_kernels.cache_clear()
    assert run_here(*task.arguments(tmp_path / "out", engine=engine)) == 1
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1
    assert "no-such-compiler" in error[0] and "--engine eager" in error[0]
    assert not (tmp_path / "out" / "metrics.jsonl").exists()
    assert [path.name for path in (tmp_path / "kernels").iterdir()] == ["build.lock"]


def test_nothing_is_built_for_eager(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The eager engine needs neither compiler nor kernels."""
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "kernels"))
    monkeypatch.setenv("CXX", "no-such-compiler")
    task.run(tmp_path / "out", engine="eager", max_steps=1, eval_dir="none")
    assert not (tmp_path / "kernels").exists()
