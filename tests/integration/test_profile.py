"""`bert-large pretrain --profile`: traces and a table of times, without changing the run."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from bert_large.engines import available_engines
from bert_large.observe.stages import STAGES

from tests.support.runs import Task, assert_same_losses, run_here, run_torchrun, step_rows

PROFILE = {"profile": True, "profile_steps": 2}


def read_profile(output: Path) -> dict[str, Any]:
    return json.loads((output / "profile" / "profile.json").read_text())


def traced_names(output: Path, rank: int, step: int) -> set[str]:
    with gzip.open(output / "profile" / f"rank{rank}_step{step}.json.gz") as file:
        return {event["name"] for event in json.load(file)["traceEvents"]}


@pytest.mark.parametrize(
    "engine",
    [pytest.param(name, marks=[] if name == "native" else pytest.mark.slow) for name in available_engines()],
)
def test_profiling_does_not_change_the_run(
    engine: str, task: Task, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Steps 4 and 5 are profiled, losses equal those without a profile, and the stages add up to the steps' time."""
    output = task.run(tmp_path / "out", engine=engine, **PROFILE)
    assert_same_losses(output, finished)
    assert len(list((output / "profile").iterdir())) == 3
    for step in (4, 5):
        assert {f"step {step}", "stage: attention", "Optimizer.step#Lamb.step"} <= traced_names(output, 0, step)
    profile = read_profile(output)
    assert profile["steps"] == [4, 5]
    assert profile["engine"] == engine
    stages = profile["stages"]
    timed = [row["seconds"] for row in step_rows(output)[3:5]]
    assert sum(stage["seconds"] for stage in stages.values()) == pytest.approx(sum(timed) / 2, rel=0.05, abs=2e-3)
    assert sum(stage["share"] for stage in stages.values()) == pytest.approx(1)
    assert tuple(stages) == STAGES
    for name in ("dense", "attention", "normalization", "embedding", "head"):
        assert 0 < stages[name]["backward_seconds"] < stages[name]["seconds"], name
    assert stages["optimizer"]["seconds"] > 0
    assert stages["data"]["seconds"] > 0
    for name in ("dense", "attention", "head"):
        assert stages[name]["bound_seconds"] * profile["gemm_gflops_per_second"] == pytest.approx(
            stages[name]["product_gflops"]
        )
    assert stages["rest"]["bound_seconds"] is None
    printed = capsys.readouterr().out
    assert "profile of steps 4, 5" in printed and "rank 0 of 1" in printed
    assert "products' bound" in (output / "train.log").read_text()


def test_a_run_that_ends_before_the_profiled_steps(
    task: Task, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = task.run(tmp_path / "out", max_steps=3, benchmark=True, **PROFILE)
    assert "before step 4" in capsys.readouterr().out
    assert not (output / "profile").exists()


def test_a_run_that_ends_between_the_profiled_steps(task: Task, tmp_path: Path) -> None:
    output = task.run(tmp_path / "out", max_steps=4, benchmark=True, **PROFILE)
    assert read_profile(output)["steps"] == [4]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"profile_steps": 2}, "--profile-steps"),
        ({"profile": True, "profile_steps": 0}, "--profile-steps is 0"),
        ({"profile": True, "global_batch_size": 100_000}, "--profile: "),
    ],
)
def test_refused(
    changes: dict[str, Any], message: str, task: Task, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_here(*task.arguments(tmp_path / "out", **changes)) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_each_rank_writes_its_trace(task: Task, tmp_path: Path) -> None:
    """The table of rank 0 contains the time to sum gradients, including waiting for the other rank."""
    output = tmp_path / "out"
    done = run_torchrun(2, *task.arguments(output, zero1=True, **PROFILE))
    assert done.returncode == 0, done.stderr
    for rank in (0, 1):
        for step in (4, 5):
            assert {f"step {step}", "c10d::allreduce_"} <= traced_names(output, rank, step)
    profile = read_profile(output)
    assert (profile["rank"], profile["world_size"]) == (0, 2)
    assert profile["stages"]["communication"]["share"] > 0
    assert done.stdout.count("profile of steps 4, 5") == 1
