"""Data and a model that runs of a second train on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from bert_large.train.step import StepRunner

from tests.support.models import write_config
from tests.support.records import PHASE_2_SHAPE, make_records, write_folder
from tests.support.runs import PROJECT, Task

# Eight steps of eight samples: more than the epoch of 50 records. Recipe `intel` gives the rest.
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
    """A tiny BERT with dropout; a dataset folder as users have it: seq_128/ and seq_512/ of three shards, and eval/."""
    folder = tmp_path_factory.mktemp("task")
    records = make_records(50, lengths=(5, 100))
    write_folder(folder / "data set" / "seq_128", records, shards=3)
    write_folder(folder / "data set" / "seq_512", records[::-1], shards=3, shape=PHASE_2_SHAPE)
    write_folder(folder / "data set" / "eval", make_records(12, seed=1), shape=PHASE_2_SHAPE)
    return Task(folder / "data set", write_config(folder / "bert config.json"), SETTINGS)


@pytest.fixture(scope="session")
def easy_task(task: Task, tmp_path_factory: pytest.TempPathFactory) -> Task:
    """Every label is the same, so that the target is reached in some steps of the sixty."""
    records = make_records(40)
    for record in records:
        record.masked_ids[:] = 77
    folder = tmp_path_factory.mktemp("easy") / "data"
    write_folder(folder / "seq_128", records)
    write_folder(folder / "eval", records[:5])
    settings = {"target_accuracy": 0.9, "eval_every_samples": 8, "max_steps": 60, "learning_rate": 0.05}
    return Task(folder, task.config_file, task.settings | settings)


@pytest.fixture(scope="session")
def finished(task: Task, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a run of the task as it is, from start to end: what others are compared with."""
    return task.run(tmp_path_factory.mktemp("finished") / "out")


@pytest.fixture
def signal_at(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that makes the next run get SIGTERM within a step."""

    def arrange(step: int) -> None:
        run = StepRunner.run

        def run_and_signal(self: StepRunner, number: int, *arguments: Any) -> Any:
            if number + 1 == step:
                monkeypatch.setattr(StepRunner, "run", run)
                os.kill(os.getpid(), signal.SIGTERM)
            return run(self, number, *arguments)

        monkeypatch.setattr(StepRunner, "run", run_and_signal)

    return arrange


@dataclass(frozen=True)
class Demo:
    """A finished demo."""

    folder: Path
    printed: str


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """The demo, run by its own script; it takes one to three minutes."""
    folder = tmp_path_factory.mktemp("demo") / "a demo"
    environment = os.environ | {"DEMO_DIR": str(folder), "PYTHON": sys.executable}
    done = subprocess.run(
        [PROJECT / "quickstart" / "demo.sh"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return Demo(folder, done.stdout)
