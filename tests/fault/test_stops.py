"""A run that is asked to stop ends soon, with a checkpoint: in a step, in an evaluation, as process 1, as ranks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from bert_large.data.loader import EvalBatches

from tests.support.runs import (
    Task,
    assert_same_run,
    children,
    eval_rows,
    finish,
    process_environment,
    run_here,
    start_torchrun,
    step_rows,
    wait_for_steps,
)


def checkpoints(output: Path) -> list[str]:
    return sorted(path.name for path in (output / "checkpoints").iterdir())


@pytest.mark.parametrize("step", [1, 4])
def test_a_step_that_would_miss_the_deadline_is_dropped(
    task: Task, finished: Path, tmp_path: Path, signal_at: Any, step: int
) -> None:
    """Between two micro-batches, when the weights are still those of the step before, which are saved."""
    signal_at(step)
    assert run_here(*task.arguments(tmp_path, stop_deadline=0)) == 143
    assert [row["step"] for row in step_rows(tmp_path)] == list(range(1, step))
    assert not (tmp_path / "checkpoints").exists() if step == 1 else checkpoints(tmp_path) == [f"step-{step - 1:08d}"]
    task.run(tmp_path)
    assert_same_run(tmp_path, finished)


def test_an_evaluation_is_dropped(task: Task, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It could take an hour; the resumed run starts with it."""
    read = EvalBatches.__getitem__
    reads = 0

    def read_and_signal(self: EvalBatches, number: int) -> Any:
        nonlocal reads
        reads += 1
        if reads == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return read(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(EvalBatches, "__getitem__", read_and_signal)
        assert run_here(*task.arguments(tmp_path)) == 143
    assert reads == 2 and eval_rows(tmp_path) == []
    assert checkpoints(tmp_path) == ["step-00000003"]
    task.run(tmp_path)
    assert_same_run(tmp_path, finished)


@pytest.mark.slow
@pytest.mark.skipif(os.getuid() != 0, reason="a new process namespace needs root")
def test_as_process_1(task: Task, tmp_path: Path) -> None:
    """As in a container without an init process, which ignores signals without a handler."""
    arguments = task.arguments(tmp_path, max_steps=3000, save_every=3000, eval_dir="none", data_workers=1)
    outer = subprocess.Popen(
        ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-m", "bert_large", *arguments],
        env=process_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_for_steps(tmp_path, 3)
    (inner,) = children(outer.pid)
    os.kill(inner, signal.SIGTERM)
    (done,) = finish([outer])
    assert done.returncode == 143, done.stderr
    assert checkpoints(tmp_path) == [f"step-{len(step_rows(tmp_path)):08d}"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_two_ranks_under_torchrun(task: Task, tmp_path: Path, number: signal.Signals) -> None:
    """torchrun forwards the signal and ends with its code; both ranks drop the same step."""
    settings = {"max_steps": 3000, "total_steps": 3000, "save_every": 3000, "eval_dir": "none"}
    process = start_torchrun(2, *task.arguments(tmp_path, **settings, stop_deadline=0))
    wait_for_steps(tmp_path, 3)
    process.send_signal(number)
    (done,) = finish([process])
    assert done.returncode == 128 + number, done.stderr
    steps = [row["step"] for row in step_rows(tmp_path)]
    assert steps == list(range(1, len(steps) + 1)) and len(steps) >= 3
    assert checkpoints(tmp_path) == [f"step-{len(steps):08d}"]
