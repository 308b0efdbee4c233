"""Fixtures that integration and fault tests share: data and a model for runs of a second."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from bert_large.train.step import StepRunner

from tests.support.models import write_config
from tests.support.records import PHASE_2_SHAPE, make_records, write_folder
from tests.support.runs import Task

# Eight steps of eight samples, which is more than the epoch of 50 records. The other settings are those of `intel`.
SETTINGS = {
    "global_batch_size": 8,
    "max_steps": 8,
    "learning_rate": 0.02,
    "warmup_steps": 2,
    "micro_batch_tokens": 100,
    "eval_every_samples": 24,
    "data_workers": 0,
}


@pytest.fixture(scope="session")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    """A tiny BERT with dropout, and a dataset folder with seq_128/ and seq_512/, of three shards each, and eval/."""
    folder = tmp_path_factory.mktemp("task")
    records = make_records(50, lengths=(5, 100))
    write_folder(folder / "data set" / "seq_128", records, shards=3)
    write_folder(folder / "data set" / "seq_512", records[::-1], shards=3, shape=PHASE_2_SHAPE)
    write_folder(folder / "data set" / "eval", make_records(12, seed=1), shape=PHASE_2_SHAPE)
    return Task(folder / "data set", write_config(folder / "bert config.json"), SETTINGS)


@pytest.fixture(scope="session")
def finished(task: Task, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of an undisturbed run of the task, with which others are compared."""
    return task.run(tmp_path_factory.mktemp("finished") / "out")


@pytest.fixture
def signal_at(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that makes the next run receive SIGTERM within a step."""

    def arrange(step: int) -> None:
        run = StepRunner.run

        def run_and_signal(self: StepRunner, number: int, *arguments: Any) -> Any:
            if number + 1 == step:
                monkeypatch.setattr(StepRunner, "run", run)
                os.kill(os.getpid(), signal.SIGTERM)
            return run(self, number, *arguments)

        monkeypatch.setattr(StepRunner, "run", run_and_signal)

    return arrange
