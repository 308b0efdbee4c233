"""Tasks and a demo for the integration tests."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.finetune import FINETUNE_SETTINGS, write_model
from tests.support.glue import write_glue
from tests.support.records import make_records, write_folder
from tests.support.runs import PROJECT, Task
from tests.support.tasks import finished, signal_at, task

__all__ = ["Demo", "demo", "easy_task", "finished", "signal_at", "task"]


@pytest.fixture(scope="session")
def easy_task(task: Task, tmp_path_factory: pytest.TempPathFactory) -> Task:
    """All labels are the same, so that the target is reached within the sixty steps."""
    records = make_records(40)
    for record in records:
        record.masked_ids[:] = 77
    folder = tmp_path_factory.mktemp("easy") / "data"
    write_folder(folder / "seq_128", records)
    write_folder(folder / "eval", records[:5])
    settings = {"target_accuracy": 0.9, "eval_every_samples": 8, "max_steps": 60, "learning_rate": 0.05}
    return Task(folder, task.config_file, task.settings | settings)


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


@pytest.fixture(scope="session")
def glue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data of GLUE's tasks in miniature."""
    return write_glue(tmp_path_factory.mktemp("glue"))


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder to fine-tune."""
    return write_model(tmp_path_factory.mktemp("start") / "model_save")


@pytest.fixture
def arguments(glue: Path, tiny_bert: Path) -> dict[str, Any]:
    """The arguments of a small fine-tuning run of SST-2."""
    return {"data_dir": glue, "checkpoint_dir": tiny_bert, **FINETUNE_SETTINGS}
