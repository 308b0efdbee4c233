"""Ranks over oneCCL: every operation, training as over gloo, resuming over the other backend, and lost ranks."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from bert_large.data.folders import list_shards
from bert_large.distributed.ccl.libraries import has_oneccl
from bert_large.train.checkpoint import list_checkpoints

from tests.support.runs import (
    PROJECT,
    Task,
    assert_same_losses,
    assert_same_run,
    children,
    finish,
    start_ranks,
    step_rows,
    wait_for_steps,
)

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not has_oneccl(), reason="the extra ccl is not installed")]

COMMAND = ("-m", "bert_large")
OPERATIONS = PROJECT / "tests" / "support" / "operations_of_ranks.py"
EPSILON = {"torch.float32": 2**-24, "torch.bfloat16": 2**-8, "torch.float64": 2**-52}
"""Relative size of half a unit in the last place; twice that for float64, in which the reference is rounded, too."""
RUN = {"max_steps": 12, "save_every": 4, "keep_checkpoints": 9, "eval_dir": "none"}
ENDLESS = {"max_steps": 100_000, "total_steps": 100_000, "save_every": 10, "eval_dir": "none", "backend": "ccl"}


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_operations(ranks: int) -> None:
    """Sums within the rounding of n - 1 additions and the same in every run, all else exact; the rest is refused."""
    results = finish(start_ranks(ranks, str(OPERATIONS), "ccl"))
    assert [done.returncode for done in results] == [0] * ranks, results[0].stderr
    found = [json.loads(done.stdout.splitlines()[-1]) for done in results]
    for rank in found:
        assert rank["backend"] == "ccl"
        for dtype, error in rank["sums"].items():
            assert error <= (ranks - 1) * EPSILON.get(dtype, 0.0), dtype
        assert set(rank["exact"].values()) == {True}
        assert all("ccl" in refusal for refusal in rank["refusals"]), rank["refusals"]
        assert rank["is_repeatable"]
    assert [rank["late"] for rank in found] == ["RuntimeError", *[""] * (ranks - 1)]
    for word in ("transport ofi", "provider tcp", "2021.16.2"):
        assert word in found[0]["described"]


def train(task: Task, output: Path, ranks: int = 2, **changes: object) -> Path:
    for done in finish(start_ranks(ranks, *COMMAND, *task.arguments(output, **{**RUN, **changes}))):
        assert done.returncode == 0, done.stderr
    return output


@pytest.fixture(scope="module")
def over_gloo(task: Task, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(task, tmp_path_factory.mktemp("ccl") / "gloo", backend="gloo")


@pytest.mark.parametrize("settings", [{}, {"zero1": True, "bucket_mb": 0.01}])
def test_two_ranks_as_over_gloo(task: Task, over_gloo: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    """With two ranks each sum is one addition, so that every bit is the same."""
    assert_same_run(train(task, tmp_path, backend="ccl", **settings), over_gloo)


def test_two_ranks_with_compressed_gradients(task: Task, tmp_path: Path) -> None:
    runs = [train(task, tmp_path / name, backend=name, gradient_compression="bf16") for name in ("ccl", "gloo")]
    assert_same_run(*runs)


def test_four_ranks(task: Task, tmp_path: Path) -> None:
    """They have the losses of one rank, and the same bits in every run."""
    first, second = (train(task, tmp_path / str(number), ranks=4, backend="ccl") for number in range(2))
    assert_same_losses(first, task.run(tmp_path / "one", **RUN))
    assert_same_run(first, second)


@pytest.mark.parametrize(("before", "after"), [("gloo", "ccl"), ("ccl", "gloo")])
def test_resuming_over_the_other_backend(task: Task, over_gloo: Path, tmp_path: Path, before: str, after: str) -> None:
    output = train(task, tmp_path, backend=before)
    for path in list_checkpoints(output / "checkpoints")[1:]:
        shutil.rmtree(path)
    (output / "ended.json").unlink(missing_ok=True)
    shutil.rmtree(output / "model_save")
    train(task, output, backend=after)
    assert "resuming after step 4" in (output / "train.log").read_text()
    assert_same_run(output, over_gloo)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_rank_is_named_within_thirty_seconds(task: Task, tmp_path: Path, lost: int, number: int) -> None:
    """At the defaults. oneCCL itself would wait forever."""
    processes = start_ranks(2, *COMMAND, *task.arguments(tmp_path, **ENDLESS))
    try:
        wait_for_steps(tmp_path, 5)
        begun = time.monotonic()
        processes[lost].send_signal(number)
        _, errors = processes[1 - lost].communicate(timeout=60)
    finally:
        for process in processes:
            process.kill()
    assert time.monotonic() - begun < 30
    assert processes[1 - lost].returncode == 1
    assert f"error: rank {lost} on host {os.uname().nodename}" in errors


def test_a_rank_that_hangs(task: Task, tmp_path: Path) -> None:
    """Its main thread waits for data that never arrive."""
    arguments = task.arguments(tmp_path, **ENDLESS, data_workers=1, rank_timeout=24)
    processes = start_ranks(2, *COMMAND, *arguments)
    try:
        wait_for_steps(tmp_path, 5)
        (loader,) = (worker for child in children(processes[1].pid) for worker in children(child))
        os.kill(loader, signal.SIGSTOP)
        _, errors = processes[0].communicate(timeout=60)
    finally:
        os.kill(loader, signal.SIGKILL)
        for process in processes:
            process.kill()
    assert processes[0].returncode == 1
    assert f"error: rank 1 on host {os.uname().nodename}" in errors


def test_a_rank_that_fails_alone(task: Task, tmp_path: Path) -> None:
    """Its error ends both, and no process is left waiting in oneCCL."""
    copy = tmp_path / "data"
    shutil.copytree(task.dataset_dir, copy)
    processes: list[subprocess.Popen[str]] = start_ranks(
        2, *COMMAND, *task.arguments(tmp_path / "out", **ENDLESS, dataset_dir=copy, rank_silence=4)
    )
    wait_for_steps(tmp_path / "out", 5)
    for shard in list_shards(copy / "seq_128"):
        os.truncate(shard, 100)
    results = finish(processes)
    assert all(done.returncode not in (0, None) and done.returncode > 0 for done in results), results[0].stderr
    assert any(f"{copy}/seq_128/" in done.stderr for done in results)


def test_the_faster_backend_is_chosen(task: Task, over_gloo: Path, tmp_path: Path) -> None:
    """By default; the log names it with the times of both, and the run is the same over either."""
    output = train(task, tmp_path, backend=None)
    (line,) = [line for line in (output / "train.log").read_text().splitlines() if "backend " in line]
    assert "gloo " in line and "ccl " in line and " ms" in line
    assert_same_run(output, over_gloo)


def test_steps_are_complete(over_gloo: Path) -> None:
    assert len(step_rows(over_gloo)) == RUN["max_steps"]
