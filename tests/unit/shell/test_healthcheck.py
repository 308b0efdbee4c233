"""docker/healthcheck.sh: whether a run makes progress, by the age of its log and of the container."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from .sandbox import Sandbox


@pytest.fixture
def log(sandbox: Sandbox) -> Path:
    """The log of a run, a moment old, in a machine that is up for longer than the run may be silent."""
    sandbox.variables |= {"OUTPUT_DIR": sandbox.folder("out put"), "HEALTH_MAX_AGE_SECONDS": "5"}
    path = sandbox.directory / "out put/train.log"
    path.write_text("step 1\nstep 2\n")
    return path


def make_old(path: Path, seconds: int = 60) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


def check(sandbox: Sandbox) -> subprocess.CompletedProcess[str]:
    return sandbox.run("docker/healthcheck.sh")


def test_a_young_log_is_healthy(sandbox: Sandbox, log: Path) -> None:
    result = check(sandbox)
    assert (result.returncode, result.stdout) == (0, "step 2\n")


def test_an_old_log_is_not(sandbox: Sandbox, log: Path) -> None:
    make_old(log)
    result = check(sandbox)
    assert result.returncode == 1
    assert "no progress for 6" in result.stdout
    assert "step 2" in result.stdout


def test_a_run_that_starts_is_healthy_for_as_long(sandbox: Sandbox, log: Path) -> None:
    make_old(log)
    sandbox.variables["HEALTH_MAX_AGE_SECONDS"] = str(10**9)  # longer than any machine is up
    assert check(sandbox).returncode == 0
    log.unlink()
    result = check(sandbox)
    assert (result.returncode, result.stdout) == (0, "no line yet\n")
    sandbox.variables["HEALTH_MAX_AGE_SECONDS"] = "0"
    assert check(sandbox).returncode == 1


@pytest.mark.parametrize("folder", [None, "/not/here"])
def test_a_container_that_does_not_train_is_healthy(sandbox: Sandbox, folder: str | None) -> None:
    if folder:
        sandbox.variables["OUTPUT_DIR"] = folder
    result = check(sandbox)
    assert result.returncode == 0
    assert result.stdout.startswith("no training run")
