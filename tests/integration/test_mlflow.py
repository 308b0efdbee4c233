"""A run's metrics in a real store of MLflow: each once, also after a resume. Training does not depend on the server."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from bert_large.observe import mlflow as observer
from bert_large.observe.mlflow import MlflowLogger
from bert_large.train.step import StepRunner

from tests.support.runs import Task, eval_rows, run_here, run_process, step_rows
from tests.support.training import EVALUATION, step_metrics

client_module = pytest.importorskip("mlflow.tracking")


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of an empty file store, which MLflow allows only on request."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{tmp_path}/mlruns")
    for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    return f"file://{tmp_path}/mlruns"


def runs(experiment: str = "bert-large") -> list[Any]:
    """Return the runs of an experiment."""
    client = client_module.MlflowClient()
    return list(client.search_runs([client.get_experiment_by_name(experiment).experiment_id]))


def history(run_id: str, name: str) -> dict[int, float]:
    """Return the values of a metric by step, each of which must have one."""
    found = client_module.MlflowClient().get_metric_history(run_id, name)
    values = {metric.step: metric.value for metric in found}
    assert len(values) == len(found)
    return values


def test_a_run_and_its_continuation(task: Task, tmp_path: Path) -> None:
    output = task.run(tmp_path / "out", mlflow=True, max_steps=3, total_steps=6, eval_every_samples=16)
    task.run(output, mlflow=True, max_steps=6, total_steps=6, eval_every_samples=16)
    (run,) = runs()
    assert run.info.status == "FINISHED" and run.info.run_name == "out"
    assert run.data.params["optimizer"] == "lamb" and run.data.params["precision"] == "fp32"
    rows = step_rows(output)
    for name in ("masked_lm_loss", "learning_rate", "samples", "sequences_per_second"):
        expected = {row["step"]: row[name] for row in rows}
        assert history(run.info.run_id, f"train/{name}") == pytest.approx(expected)
    evaluations = {row["step"]: row["masked_lm_accuracy"] for row in eval_rows(output)}
    assert len(evaluations) > 1
    assert history(run.info.run_id, "eval/masked_lm_accuracy") == pytest.approx(evaluations)


def test_a_run_that_diverges_has_failed(task: Task, tmp_path: Path) -> None:
    """Its last metrics are sent."""
    more = {"learning_rate": 1e30, "warmup_steps": 0, "eval_dir": "none", "mlflow": True}
    assert run_here(*task.arguments(tmp_path / "out", **more)) == 1
    (run,) = runs()
    assert run.info.status == "FAILED"
    assert set(history(run.info.run_id, "train/samples")) == {row["step"] for row in step_rows(tmp_path / "out")}


def test_a_run_with_an_unexpected_error_has_failed(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_step = StepRunner.run

    def fail(self: StepRunner, number: int, *arguments: Any) -> Any:
        if number == 2:
            raise RuntimeError("out of something")
        return run_step(self, number, *arguments)

    monkeypatch.setattr(StepRunner, "run", fail)
    with pytest.raises(RuntimeError, match="out of something"):
        run_here(*task.arguments(tmp_path / "out", mlflow=True))
    (run,) = runs()
    assert run.info.status == "FAILED"
    assert set(history(run.info.run_id, "train/samples")) == {1, 2}


def test_without_the_option_nothing_is_logged(task: Task, tmp_path: Path) -> None:
    task.run(tmp_path / "out", max_steps=1)
    assert not (tmp_path / "mlruns").exists()


def test_repeated_steps_are_logged_once(tmp_path: Path) -> None:
    """A killed run repeats the steps since its last checkpoint; values that are not finite are left out."""
    for steps in (range(1, 5), range(3, 7)):
        logger = MlflowLogger(tmp_path, {"a": 1})
        for number in steps:
            logger.step(step_metrics(number))
            logger.evaluation(number, number, EVALUATION)
        logger.close()
    (run,) = runs()
    assert run.info.status == "KILLED"  # a signal ended it; it may be resumed
    for name in ("train/loss", "eval/masked_lm_loss"):
        assert list(history(run.info.run_id, name)) == [1, 2, 3, 4, 5, 6]


def test_a_given_run_keeps_its_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in Azure, which creates the run and ends it."""
    client = client_module.MlflowClient()
    run_id = client.create_run(client.create_experiment("theirs")).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
    logger = MlflowLogger(tmp_path, {})
    logger.step(step_metrics(1))
    logger.close()
    (run,) = runs("theirs")
    assert run.info.status == "RUNNING" and history(run_id, "train/loss")
    assert not (tmp_path / observer.RUN_FILE).exists()


def test_a_store_that_fails_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One warning; what comes after it is logged again."""
    logger = MlflowLogger(tmp_path, {})
    real = logger._client.log_batch
    monkeypatch.setattr(logger._client, "log_batch", lambda *_, **__: (_ for _ in ()).throw(OSError("no route")))
    for number in (1, 2):
        logger.step(step_metrics(number))
        wait_until_sent(logger)
    monkeypatch.setattr(logger._client, "log_batch", real)
    logger.step(step_metrics(3))
    logger.close()
    assert [record.message.count("no route") for record in caplog.records if record.levelname == "WARNING"] == [1]
    (run,) = runs()
    assert list(history(run.info.run_id, "train/loss")) == [3]


def wait_until_sent(logger: MlflowLogger) -> None:
    """Wait until the sender has taken everything, and a moment for it to be sent."""
    deadline = time.monotonic() + 30
    while not logger._pending.empty():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.2)


def test_a_server_that_hangs_does_not_hold_up_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    logger = MlflowLogger(tmp_path, {})
    monkeypatch.setattr(observer, "_CLOSE_SECONDS", 0.1)
    monkeypatch.setattr(logger._client, "log_batch", lambda *_, **__: time.sleep(30))
    logger.step(step_metrics(1))
    logger.close()
    assert "MLflow does not answer" in caplog.text


def test_a_missing_address_is_named(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    done = run_process(*task.arguments(tmp_path / "out", mlflow=True))
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "MLFLOW_TRACKING_URI" in line


def test_a_store_that_refuses_is_one_line(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://nowhere")
    done = run_process(*task.arguments(tmp_path / "out", mlflow=True))
    assert done.returncode == 2
    assert "nonsense://nowhere" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "out" / "checkpoints").exists()
