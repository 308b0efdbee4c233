"""Ranks that die, hang, fail or differ: the others end with an error that names them, and the run can resume."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from bert_large.data.folders import list_shards
from bert_large.train.checkpoint import list_checkpoints

from tests.support.records import make_records, write_folder
from tests.support.runs import (
    PROCESS_TIMEOUT_SECONDS,
    PROJECT,
    Task,
    assert_same_losses,
    children,
    find_rank,
    finish,
    python_path,
    start_different_ranks,
    start_ranks,
    start_torchrun,
    step_rows,
    wait_for_steps,
)

COMMAND = ("-m", "bert_large")
ON_TWO_HOSTS = [{"LOCAL_RANK": "0"}, {"LOCAL_RANK": "0"}]
"""Variables of two ranks that are each the first one on a host."""
RUN = {"max_steps": 60, "save_every": 7, "eval_dir": "none"}
ENDLESS = {"max_steps": 100_000, "total_steps": 100_000, "save_every": 10, "eval_dir": "none"}


def wait_for_end(process: subprocess.Popen[str], seconds: float) -> str:
    """Return the error that a process printed; it must end with exit code 1 within `seconds`."""
    _, errors = process.communicate(timeout=seconds)
    assert process.returncode == 1, errors
    (line,) = [line for line in errors.splitlines() if "error: " in line]
    return line


@contextmanager
def running(processes: list[subprocess.Popen[str]]) -> Iterator[list[subprocess.Popen[str]]]:
    """Kill the processes at the end of the block."""
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate(timeout=PROCESS_TIMEOUT_SECONDS)


def test_a_stopped_rank_ends_the_run_without_its_messages(task: Task, tmp_path: Path) -> None:
    """The other rank cannot print why it ends, because standard error is full; it ends all the same."""
    fill = "import os; os.dup2(os.open('/dev/full', os.O_WRONLY), 2)"
    command = f"{fill}; import runpy; runpy.run_module('bert_large', run_name='__main__')"
    arguments = task.arguments(tmp_path, **ENDLESS, rank_silence=3)
    with running(start_ranks(2, "-c", command, *arguments)) as processes:
        wait_for_steps(tmp_path, 3)
        processes[1].send_signal(signal.SIGSTOP)
        processes[0].communicate(timeout=60)
    assert processes[0].returncode == 1
    assert "error: rank 1 on host" in (tmp_path / "train.log").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
def test_a_killed_rank(task: Task, tmp_path: Path, lost: int) -> None:
    """The other rank names it, also in its log, and the resumed run has the losses of an undisturbed one."""
    output = tmp_path / "killed"
    with running(start_ranks(2, *COMMAND, *task.arguments(output, **RUN, rank_silence=4))) as processes:
        wait_for_steps(output, 20)
        processes[lost].kill()
        line = wait_for_end(processes[1 - lost], 60)
    assert f"error: rank {lost} on host {os.uname().nodename}" in line
    if lost == 1:
        assert line.split("error: ")[1] in (output / "train.log").read_text()
    assert 20 <= len(step_rows(output)) < 60
    assert list_checkpoints(output / "checkpoints")
    task.run(output, **RUN)
    assert_same_losses(output, task.run(tmp_path / "undisturbed", **RUN))


@pytest.mark.slow
def test_a_stopped_rank_at_the_defaults(task: Task, tmp_path: Path) -> None:
    """Its process and connections exist, but it sends nothing; detected within a minute."""
    with running(start_ranks(2, *COMMAND, *task.arguments(tmp_path, **ENDLESS))) as processes:
        wait_for_steps(tmp_path, 5)
        processes[1].send_signal(signal.SIGSTOP)
        line = wait_for_end(processes[0], 60)
    assert "error: rank 1 on host" in line and "no sign of life for 20 s" in line


@pytest.mark.slow
def test_a_rank_that_hangs_but_lives(task: Task, tmp_path: Path) -> None:
    """Its main thread waits for data that never arrive, and the others for it, but all still send beats."""
    arguments = task.arguments(tmp_path, **ENDLESS, data_workers=1, rank_timeout=24)
    with running(start_ranks(2, *COMMAND, *arguments)) as processes:
        wait_for_steps(tmp_path, 5)
        # The worker process is a child of Python's fork server.
        (loader,) = (worker for child in children(processes[1].pid) for worker in children(child))
        os.kill(loader, signal.SIGSTOP)
        try:
            line = wait_for_end(processes[0], 60)
        finally:
            os.kill(loader, signal.SIGKILL)
    assert "error: rank 1 on host" in line and "waiting for data): no progress for 24 s" in line


@pytest.mark.slow
def test_a_rank_that_fails_alone(task: Task, tmp_path: Path) -> None:
    """Its records are damaged after the start: the other rank names it and repeats its error."""
    copy = tmp_path / "data"
    shutil.copytree(task.dataset_dir, copy)
    arguments = [task.arguments(tmp_path / "out", **ENDLESS, rank_silence=4, dataset_dir=folder)
                 for folder in (task.dataset_dir, copy)]  # fmt: skip
    with running(start_different_ranks([(*COMMAND, *words) for words in arguments], ON_TWO_HOSTS)) as processes:
        wait_for_steps(tmp_path / "out", 5)
        for shard in list_shards(copy / "seq_128"):
            os.truncate(shard, 100)
        lines = [wait_for_end(processes[0], 60), finish(processes[1:])[0].stderr.splitlines()[-1]]
    assert lines[1].startswith(f"bert-large pretrain: error: {copy}/seq_128/")
    reason = lines[1].split("error: ")[1]
    assert f"error: rank 1 on host {os.uname().nodename} failed: {reason}" in lines[0]


@pytest.mark.slow
def test_torchrun_starts_again(task: Task, tmp_path: Path) -> None:
    """From the last checkpoint, also with --resume never, with the losses of an undisturbed run."""
    output = tmp_path / "restarted"
    arguments = task.arguments(output, **RUN, resume="never", rank_silence=4)
    with running([start_torchrun(2, *arguments, max_restarts=1)]) as (launcher,):
        wait_for_steps(output, 20)
        os.kill(find_rank(launcher, 1), signal.SIGKILL)
        (done,) = finish([launcher])
    assert done.returncode == 0, done.stderr
    assert "rank 1 on host" in done.stderr
    assert (output / "train.log").read_text().count("resuming after step") == 1
    assert_same_losses(output, task.run(tmp_path / "undisturbed", **RUN))


def assert_refused(processes: Sequence[subprocess.Popen[str]], *reasons: str, lines: int = 1) -> None:
    """Both ranks end with exit code 2, and the first rank of each host prints the same line."""
    results = finish(processes)
    assert [done.returncode for done in results] == [2, 2], results[0].stderr
    printed = [line for done in results for line in done.stderr.splitlines()]
    (line,) = results[0].stderr.splitlines()
    assert printed == [line] * lines
    for reason in (f"rank 1 on host {os.uname().nodename}", *reasons):
        assert reason in line


def test_other_settings_are_refused(task: Task, tmp_path: Path) -> None:
    arguments = [task.arguments(tmp_path / "out", **ENDLESS, **own) for own in ({}, {"seed": 7, "engine": "eager"})]
    assert_refused(start_different_ranks([(*COMMAND, *words) for words in arguments]),
                   "seed is 7,", "engine is eager,")  # fmt: skip
    assert not (tmp_path / "out" / "run.json").exists()


@pytest.mark.slow
def test_other_data_are_refused(task: Task, tmp_path: Path) -> None:
    write_folder(tmp_path / "data" / "seq_128", make_records(50, lengths=(5, 90)), shards=3)
    arguments = [task.arguments(tmp_path / "out", **ENDLESS, dataset_dir=folder)
                 for folder in (task.dataset_dir, tmp_path / "data")]  # fmt: skip
    assert_refused(
        start_different_ranks([(*COMMAND, *words) for words in arguments], ON_TWO_HOSTS), "data is ", lines=2
    )


@pytest.mark.slow
def test_other_code_is_refused(task: Task, tmp_path: Path) -> None:
    package = PROJECT / "models" / "bert_large"
    shutil.copytree(package, tmp_path / "bert_large", ignore=shutil.ignore_patterns("__pycache__", "built"))
    with (tmp_path / "bert_large" / "optim" / "schedule.py").open("a") as file:
        file.write("# changed\n")
    arguments = (*COMMAND, *task.arguments(tmp_path / "out", **ENDLESS))
    other = {"PYTHONPATH": python_path(tmp_path)}
    processes = start_different_ranks([arguments, arguments], [{}, other])
    assert_refused(processes, "source code is ", lines=2)  # each rank finds it before they have joined


@pytest.mark.slow
def test_settings_that_are_wrong_on_one_rank(task: Task, tmp_path: Path) -> None:
    """A file that is missing on one host: no rank waits for it, and the first of every host names the rank."""
    arguments = [task.arguments(tmp_path / "out", **ENDLESS, **own) for own in ({}, {"config_file": "/nowhere.json"})]
    for variables, lines in (([{}, {}], 1), (ON_TWO_HOSTS, 2)):
        processes = start_different_ranks([(*COMMAND, *words) for words in arguments], variables)
        assert_refused(processes, "/nowhere.json", "found by rank 1", lines=lines)


@pytest.mark.slow
def test_a_rank_that_never_joins(task: Task, tmp_path: Path) -> None:
    """The others name it."""
    arguments = (*COMMAND, *task.arguments(tmp_path, rank_timeout=5))
    with running(start_ranks(3, *arguments)) as processes:
        processes[2].kill()
        lines = [wait_for_end(process, 60) for process in processes[:2]]
    assert any("rank 2 of 3" in line for line in lines), lines
