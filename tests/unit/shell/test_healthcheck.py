"""docker/healthcheck.sh: whether a run makes progress, by the age of its log and of the container."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from .sandbox import Sandbox

LONG_SECONDS = 10**9  # more than the uptime of any machine


@pytest.fixture
def log(sandbox: Sandbox) -> Path:
    """The recent log of a run, on a machine that is up for longer than the allowed age."""
    sandbox.variables |= {"OUTPUT_DIR": sandbox.folder("out put"), "HEALTH_MAX_AGE_SECONDS": "5"}
    path = sandbox.directory / "out put/train.log"
    path.write_text("step 1\nstep 2\n")
    return path


def check(sandbox: Sandbox) -> tuple[int, str]:
    """Return the exit code and the output of the check."""
    result = sandbox.run("docker/healthcheck.sh")
    return result.returncode, result.stdout


def test_a_recent_log_is_healthy(sandbox: Sandbox, log: Path) -> None:
    assert check(sandbox) == (0, "step 2\n")


def test_an_old_log_is_unhealthy(sandbox: Sandbox, log: Path) -> None:
    then = time.time() - 60
    os.utime(log, (then, then))
    code, printed = check(sandbox)
    assert code == 1 and " 6" in printed and "step 2" in printed


@pytest.mark.parametrize(("max_age", "code"), [(LONG_SECONDS, 0), (0, 1)])
def test_a_starting_run_is_healthy_for_the_allowed_age(sandbox: Sandbox, log: Path, max_age: int, code: int) -> None:
    log.unlink()
    sandbox.variables["HEALTH_MAX_AGE_SECONDS"] = str(max_age)
    assert check(sandbox)[0] == code


def test_an_old_log_of_an_earlier_start_is_healthy(sandbox: Sandbox, log: Path) -> None:
    os.utime(log, (0, 0))
    sandbox.variables["HEALTH_MAX_AGE_SECONDS"] = str(LONG_SECONDS)
    assert check(sandbox)[0] == 0


def test_a_container_that_does_not_train_is_healthy(sandbox: Sandbox) -> None:
    assert check(sandbox)[0] == 0


@pytest.mark.parametrize("name", ["not here", "a file"])
def test_a_wrong_output_folder_is_unhealthy(sandbox: Sandbox, name: str) -> None:
    sandbox.file("a file")
    sandbox.variables["OUTPUT_DIR"] = str(sandbox.directory / name)
    code, printed = check(sandbox)
    assert code == 1 and sandbox.variables["OUTPUT_DIR"] in printed


@pytest.mark.parametrize("limit", ["30m", "-1", "1.5", "09"])
def test_a_wrong_limit_is_unhealthy(sandbox: Sandbox, log: Path, limit: str) -> None:
    sandbox.variables["HEALTH_MAX_AGE_SECONDS"] = limit
    code, printed = check(sandbox)
    assert code == 1 and f"HEALTH_MAX_AGE_SECONDS={limit}" in printed
