"""Two runs in one folder: the second is refused, and does not touch the files of the first."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.support.runs import (
    Task,
    finish,
    options,
    run_here,
    start_process,
    start_ranks,
    step_rows,
    told_once,
    wait_for_steps,
)


@pytest.mark.slow
def test_a_second_run_is_refused(
    task: Task, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Alone or as ranks, of which one prints the error; an evaluation needs no lock, and a killed run leaves none."""
    settings = {"max_steps": 3000, "total_steps": 3000, "save_every": 2, "eval_dir": "none"}
    first = start_process(*task.arguments(tmp_path, **settings))
    try:
        wait_for_steps(tmp_path, 2)
        assert run_here(*task.arguments(tmp_path, **settings)) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"OUTPUT_DIR {tmp_path} " in line and str(first.pid) in line
        line = told_once(finish(start_ranks(2, "-m", "bert_large", *task.arguments(tmp_path, **settings))))
        assert str(first.pid) in line
        evaluation = {"checkpoint_dir": finished / "model_save", "eval_dir": task.dataset_dir / "eval"}
        assert run_here("evaluate", *options(**evaluation)) == 0
        assert first.poll() is None
    finally:
        first.send_signal(signal.SIGKILL)
        finish([first])
    assert (tmp_path / "train.log").read_text().count("real tokens") == 1
    done_before = len(step_rows(tmp_path))
    assert run_here(*task.arguments(tmp_path, **settings | {"max_steps": done_before + 1})) == 0
    assert [row["step"] for row in step_rows(tmp_path)] == list(range(1, done_before + 2))
