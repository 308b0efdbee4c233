"""Tasks and a demo for the integration tests."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

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
    """A demo that has run."""

    folder: Path
    printed: str


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """The demo, from start to end by its own script: a minute or more."""
    folder = tmp_path_factory.mktemp("demo") / "a demo"
    environment = os.environ | {"DEMO_DIR": str(folder), "PYTHON": sys.executable}
    done = subprocess.run(
        [PROJECT / "quickstart" / "demo.sh"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return Demo(folder, done.stdout)
