"""The launcher on this machine: cores and threads of the ranks, machines of different sizes, signals and exit codes."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from bert_large.distributed.bind import PLACEMENTS_VARIABLE
from bert_large.distributed.network import free_port
from bert_large.distributed.topology import read_topology
from bert_large.train.checkpoint import list_checkpoints, read_state

from tests.support.runs import PROJECT, Task, finish, process_environment, step_rows, wait_for_steps

PROGRAM = str(PROJECT / "tests" / "support" / "show_rank.py")
CORES = read_topology().cores

pytestmark = pytest.mark.skipif(CORES < 2, reason="needs two cores")


def start(*program: str, **variables: str) -> subprocess.Popen[str]:
    """Start the launcher with these variables, without those of OpenMP."""
    return start_ignoring(None, program, variables)


def start_ignoring(
    number: signal.Signals | None, program: Sequence[str], variables: Mapping[str, str]
) -> subprocess.Popen[str]:
    """Start the launcher with a signal ignored, as nohup does with SIGHUP."""
    environment = process_environment(**variables)
    if "OMP_NUM_THREADS" not in variables:
        del environment["OMP_NUM_THREADS"]
    return subprocess.Popen(
        [sys.executable, "-m", "bert_large.distributed.launch", *program],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=None if number is None else partial(signal.signal, number, signal.SIG_IGN),
    )  # fmt: skip


def launch(folder: Path, **variables: str) -> tuple[subprocess.CompletedProcess[str], dict[str, dict[str, Any]]]:
    """Run the program that shows its environment and arguments; return its result, and the output of each rank."""
    (done,) = finish([start(PROGRAM, "an argument", "--option", SHOW_DIR=str(folder), **variables)])
    return done, shown(folder)


def shown(folder: Path) -> dict[str, dict[str, Any]]:
    """Return what each rank has shown so far."""
    return {path.name: json.loads(path.read_text()) for path in folder.iterdir() if not path.suffix}


def test_one_rank_replaces_the_launcher(tmp_path: Path) -> None:
    """Without torchrun, and not bound to cores."""
    done, ranks = launch(tmp_path, RANKS_PER_NODE="1", CODE="7")
    assert done.returncode == 7 and done.stderr == ""
    assert ranks["alone"]["cpus"] == sorted(os.sched_getaffinity(0))
    assert ranks["alone"]["environment"]["OMP_NUM_THREADS"] == str(read_topology().threads)
    assert ranks["alone"]["arguments"] == ["an argument", "--option"]


def test_two_ranks_have_their_own_cores_and_exit_codes(tmp_path: Path) -> None:
    """The launcher ends with the code of the failed rank, and one line that names it instead of a traceback."""
    done, ranks = launch(tmp_path, RANKS_PER_NODE="2", CODE="41")
    assert done.returncode == 41
    assert done.stderr.splitlines()[-1] == "bert-large: error: rank 1 ended with exit code 41"
    assert "Traceback" not in done.stderr
    assert sorted(ranks) == ["0", "1"]
    zero, one = (set(ranks[rank]["cpus"]) for rank in ("0", "1"))
    assert zero and one and not zero & one
    assert zero | one <= set(os.sched_getaffinity(0))
    for rank in ranks.values():
        assert rank["environment"]["OMP_NUM_THREADS"] == str(len(rank["cpus"]))
        assert rank["arguments"] == ["an argument", "--option"]
        assert not rank["torch_was_loaded"]
        assert rank["environment"]["WORLD_SIZE"] == "2"


@pytest.mark.slow
def test_settings_of_the_user_take_precedence(tmp_path: Path) -> None:
    done, ranks = launch(tmp_path, RANKS_PER_NODE="2", BIND="none", OMP_NUM_THREADS="3", KMP_AFFINITY="none")
    assert done.returncode == 0, done.stderr
    for rank in ranks.values():
        assert rank["cpus"] == sorted(os.sched_getaffinity(0))
        assert (rank["environment"]["OMP_NUM_THREADS"], rank["environment"]["KMP_AFFINITY"]) == ("3", "none")


@pytest.mark.slow
def test_a_port_in_use_is_one_line(tmp_path: Path) -> None:
    with socket.create_server(("", 0)) as taken:
        port = str(taken.getsockname()[1])
        done, _ = launch(tmp_path, RANKS_PER_NODE="2", BIND="none", MASTER_PORT=port)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert f"MASTER_PORT {port}" in line


def start_waiting(folder: Path, ignoring: signal.Signals | None = None) -> tuple[subprocess.Popen[str], list[int]]:
    """Start two ranks that wait for a signal; return the launcher and the process ids of the ranks."""
    variables = {"SHOW_DIR": str(folder), "RANKS_PER_NODE": "2", "WAIT": "1"}
    process = start_ignoring(ignoring, [PROGRAM], variables)
    wait_until(lambda: len(shown(folder)) == 2)
    return process, [rank["process"] for rank in shown(folder).values()]


def is_running(process: int) -> bool:
    """Return whether a process exists and has not ended."""
    try:
        return bool(Path(f"/proc/{process}/cmdline").read_bytes())
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("number", "ignoring"),
    [
        (signal.SIGHUP, None),
        pytest.param(signal.SIGTERM, None, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, signal.SIGHUP, marks=pytest.mark.slow),
    ],
    ids=["terminal closed", "terminated", "terminal closed under nohup, then terminated"],
)
def test_a_signal_reaches_all_ranks(tmp_path: Path, number: signal.Signals, ignoring: signal.Signals | None) -> None:
    """The launcher waits until they have ended, and has the exit code of the signal, as a single rank has.

    Under nohup, a closed terminal does not end the run.
    """
    process, ranks = start_waiting(tmp_path, ignoring)
    if ignoring is not None:
        process.send_signal(ignoring)
        time.sleep(2)
        assert all(map(is_running, ranks)) and process.poll() is None
    process.send_signal(number)
    (done,) = finish([process])
    assert done.returncode == 128 + number, done.stderr
    assert "Traceback" not in done.stderr
    assert len(list(tmp_path.glob("*.ended"))) == 2


def test_ranks_do_not_outlive_the_launcher(tmp_path: Path) -> None:
    """They would continue to train into the folder of the run that replaces them."""
    process, ranks = start_waiting(tmp_path)
    process.kill()
    wait_until(lambda: not any(map(is_running, ranks)))
    finish([process])


@pytest.mark.slow
def test_machines_with_different_numbers_of_ranks(tmp_path: Path) -> None:
    """torchrun numbers the ranks of both machines, which are this one here."""
    port = str(free_port())
    common = {"NNODES": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "BIND": "none", "SHOW_DIR": str(tmp_path)}
    results = finish([start(PROGRAM, NODE_RANK=str(node), RANKS_PER_NODE=str(node + 1), **common) for node in (0, 1)])
    assert [done.returncode for done in results] == [0, 0], results[0].stderr
    ranks = {name: rank["environment"] for name, rank in shown(tmp_path).items()}
    assert sorted(ranks) == ["0", "1", "2"]
    assert [ranks[name]["LOCAL_RANK"] for name in sorted(ranks)] == ["0", "0", "1"]
    assert {rank["WORLD_SIZE"] for rank in ranks.values()} == {"3"}
    assert {rank["GLOO_SOCKET_IFNAME"] for rank in ranks.values()} == {"lo"}
    assert all(PLACEMENTS_VARIABLE in rank for rank in ranks.values())


@pytest.mark.slow
def test_training_stops_on_a_signal_to_the_launcher(task: Task, tmp_path: Path) -> None:
    """After the current step, with a checkpoint: torchrun signals helper processes too. The log has the bindings."""
    arguments = task.arguments(tmp_path, max_steps=2000, save_every=1000, eval_dir="none", data_workers=1)
    process = start("-m", "bert_large", *arguments, RANKS_PER_NODE="2")
    wait_for_steps(tmp_path, 3)
    process.send_signal(signal.SIGINT)
    (done,) = finish([process])
    assert done.returncode == 130, done.stderr
    steps = len(step_rows(tmp_path))
    assert [read_state(path)[0].step for path in list_checkpoints(tmp_path / "checkpoints")] == [steps]
    log = (tmp_path / "train.log").read_text()
    assert "backend gloo: oneCCL is not installed" in log
    placed = re.findall(r"rank (\d): (\d+) threads? on CPUs? (\S+) of NUMA node", log)
    assert [rank for rank, *_ in placed] == ["0", "1"]
    assert placed[0][2] != placed[1][2]
