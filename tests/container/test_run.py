"""run.sh with a real engine: the user and the rights of the container, and how it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from .caller import Caller
from .engine import STOCK, Engine, build_image


def wait_until_there(path: Path, process: subprocess.Popen[str]) -> None:
    """Wait until a running process has created a file."""
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.1)


def test_the_container_runs_as_the_caller(caller: Caller) -> None:
    result = caller.use_probe().run()
    assert result.returncode == 0, result.stderr
    report = caller.report
    assert (report["uid"], report["gid"]) == (caller.uid, caller.uid)
    assert report["user"] == "bert"
    assert report["home_is_writable"]
    assert report["capabilities"] == 0
    assert report["no_new_privileges"]
    assert report["first_process"] in ("docker-init", "tini")
    assert report["shared_memory_bytes"] == 8 << 30
    output = Path(caller.variables["OUTPUT_DIR"])
    for path in (output, output / "report.json"):
        assert (path.stat().st_uid, path.stat().st_gid) == (caller.uid, caller.uid)
    assert caller.engine.containers() == []


def test_root_runs_without_capabilities(engine: Engine, public_folder: Path) -> None:
    build_image(engine, STOCK)
    caller = Caller(engine, public_folder, uid=0).use_probe()
    result = caller.run()
    assert result.returncode == 0, result.stderr
    assert caller.report["uid"] == 0
    assert caller.report["capabilities"] == 0
    assert not caller.report["image_is_writable"]


def test_only_the_output_is_writable(caller: Caller) -> None:
    caller.variables["CHECKPOINT_DIR"] = str(caller.home / "check point")
    result = caller.use_probe().run()
    assert result.returncode == 0, result.stderr
    inputs = {"--dataset-dir", "--config-file", "--checkpoint-dir"}
    assert caller.report["readable"] == dict.fromkeys((*inputs, "--output-dir"), True)
    assert caller.report["writable"] == {"--output-dir": True} | dict.fromkeys(inputs, False)


def test_files_of_a_supplementary_group_are_readable(caller: Caller) -> None:
    dataset = Path(caller.variables["DATASET_DIR"])
    os.chown(dataset, 0, 4321)
    dataset.chmod(0o750)
    caller.groups = [4321]
    result = caller.use_probe().run()
    assert result.returncode == 0, result.stderr
    assert caller.report["readable"]["--dataset-dir"]


def test_relative_paths_links_and_odd_names(caller: Caller) -> None:
    odd = caller.home / 'data: a,b "c"'
    odd.mkdir()
    (caller.home / "link").symlink_to(odd)
    caller.own()
    caller.variables |= {"DATASET_DIR": "link", "OUTPUT_DIR": "out", "DOCKER_ARGS": "--label 'a=b c'"}
    result = caller.use_probe().run("--seed", "a b")
    assert result.returncode == 0, result.stderr
    caller.variables["OUTPUT_DIR"] = str(caller.home / "out")
    arguments = caller.report["arguments"]
    assert f"--dataset-dir={odd}" in arguments
    assert arguments[-2:] == ["--seed", "a b"]
    assert caller.report["readable"]["--dataset-dir"]


@pytest.mark.parametrize(("precision", "instruction_set"), [("bf16", "AVX512_CORE_AMX"), ("avx-fp32", None)])
def test_precision(caller: Caller, precision: str, instruction_set: str | None) -> None:
    caller.variables["PRECISION"] = precision
    assert caller.use_probe().run().returncode == 0
    assert caller.report["instruction_set"] == instruction_set


def test_the_exit_code_is_returned(caller: Caller) -> None:
    assert caller.use_probe().run("--fail").returncode == 47


@pytest.mark.parametrize("number", [signal.SIGTERM])
def test_signals_reach_the_trainer(caller: Caller, number: signal.Signals) -> None:
    process = caller.use_probe().start("--wait")
    wait_until_there(Path(caller.variables["OUTPUT_DIR"]) / "waiting", process)
    process.send_signal(number)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 48, error
    assert caller.engine.containers() == []


@pytest.mark.parametrize("variable", ["PRECISION", "OUTPUT_DIR", "DATASET_DIR", "CONFIG_FILE"])
def test_a_missing_variable_is_one_line(caller: Caller, variable: str) -> None:
    del caller.variables[variable]
    result = caller.run()
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert variable in result.stderr
    assert result.stdout == ""
    assert not (caller.home / "out put").exists()


def test_a_missing_image_is_one_line(caller: Caller) -> None:
    caller.variables["IMAGE_NAME"] = "no/such:image"
    result = caller.run()
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert "no/such:image" in result.stderr


def test_an_unreachable_engine_is_one_line(caller: Caller) -> None:
    caller.variables["DOCKER_HOST"] = "unix:///no/engine.sock"
    result = caller.run()
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert "RUNTIME=native" in result.stderr


def test_an_output_folder_of_another_user_is_refused(caller: Caller) -> None:
    output = Path(caller.variables["OUTPUT_DIR"])
    output.mkdir(mode=0o755)
    os.chown(output, 0, 0)
    result = caller.run()
    assert result.returncode == 2
    assert "OUTPUT_DIR=" in result.stderr
