"""Ways to run `bert-large`: in this process, as a separate process, and as several ranks."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from bert_large.cli import main
from bert_large.log import LOGGER
from bert_large.observe.metrics import read_rows

PROJECT = Path(__file__).resolve().parents[2]
TIMINGS = ("seconds", "data_seconds", "sequences_per_second", "tokens_per_second")
PROCESS_TIMEOUT_SECONDS = 120
RANKS_TOLERANCE = 2e-6
"""Relative tolerance of losses and gradient norms of several ranks compared with one. The worst seen is 1.7e-7."""


def options(**values: Any) -> list[str]:
    """Return command-line options: `max_steps=4` is `--max-steps 4`, True is a flag, None is left out."""
    words: list[str] = []
    for name, value in values.items():
        if value is not None and value is not False:
            words.append(f"--{name.replace('_', '-')}")
        if not isinstance(value, bool | None):
            words.append(str(value))
    return words


@contextmanager
def _unchanged_process() -> Iterator[None]:
    """Restore what a command changes in its process: signal handlers, log handlers, matrix precision, thread count."""
    listened = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    precision, threads = torch.get_float32_matmul_precision(), torch.get_num_threads()
    torch.set_num_threads(1)  # as in the processes below, also when a fixture of a session runs this
    try:
        yield
    finally:
        for number, handler in listened.items():
            signal.signal(number, handler)
        for log_handler in LOGGER.handlers:
            log_handler.close()
        LOGGER.handlers = []
        LOGGER.propagate = True
        torch.set_float32_matmul_precision(precision)
        torch.set_num_threads(threads)


def run_here(*arguments: str) -> int:
    """Run a command in this process and return its exit code."""
    with _unchanged_process():
        try:
            return main(arguments)
        except SystemExit as exit_:  # raised by argparse
            return int(exit_.code or 0)


def process_environment(**changes: str) -> dict[str, str]:
    """Return the environment of a process that runs the package, with one thread and without an outer torchrun's."""
    kept = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    return kept | {"PYTHONPATH": python_path(), "OMP_NUM_THREADS": "1"} | changes


def python_path(models: Path = PROJECT / "models") -> str:
    """Return the path on which Python finds the package and the tests' programs."""
    return f"{models}:{PROJECT}"


def start_process(*arguments: str) -> subprocess.Popen[str]:
    """Start a command as a process."""
    return subprocess.Popen(
        [sys.executable, "-m", "bert_large", *arguments],
        env=process_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def run_process(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command as a process."""
    return finish([start_process(*arguments)])[0]


def start_torchrun(ranks: int, *arguments: str, max_restarts: int = 0) -> subprocess.Popen[str]:
    """Start a command as ranks under torchrun, like the quickstart scripts."""
    variables = {"RANKS_PER_NODE": str(ranks), "BIND": "none", "MASTER_PORT": str(free_port()),
                 "MAX_RESTARTS": str(max_restarts)}  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "-m", "bert_large.distributed.launch", "-m", "bert_large", *arguments],
        env=process_environment(**variables), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def run_torchrun(ranks: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command under torchrun."""
    return finish([start_torchrun(ranks, *arguments)])[0]


def find_rank(launcher: subprocess.Popen[str], rank: int) -> int:
    """Return the process id of a rank that torchrun has started."""
    for child in children(launcher.pid):
        if f"RANK={rank}" in Path(f"/proc/{child}/environ").read_text().split("\0"):
            return child
    raise AssertionError(f"no rank {rank} among {children(launcher.pid)}")


def children(process: int) -> list[int]:
    """Return the process ids of the running children of a process, of all its threads."""
    threads = Path(f"/proc/{process}/task").iterdir()
    return [int(child) for thread in threads for child in (thread / "children").read_text().split()]


def start_ranks(ranks: int, *arguments: str) -> list[subprocess.Popen[str]]:
    """Start `python ARGUMENTS` once per rank, with the variables that torchrun sets."""
    return start_different_ranks([arguments] * ranks)


def start_different_ranks(
    arguments: Sequence[Sequence[str]], variables: Sequence[dict[str, str]] | None = None
) -> list[subprocess.Popen[str]]:
    """Start ranks with different arguments and variables."""
    variables = [{}] * len(arguments) if variables is None else variables
    common = {"WORLD_SIZE": str(len(arguments)), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    return [
        subprocess.Popen(
            [sys.executable, *words],
            env=process_environment(**{**common, "RANK": str(rank), "LOCAL_RANK": str(rank), **changes}),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank, (words, changes) in enumerate(zip(arguments, variables, strict=True))
    ]  # fmt: skip


def finish(processes: Sequence[subprocess.Popen[str]]) -> list[subprocess.CompletedProcess[str]]:
    """Wait for processes and return their results; any that do not end are killed."""
    try:
        outputs = [process.communicate(timeout=PROCESS_TIMEOUT_SECONDS) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [
        subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)
        for process, (stdout, stderr) in zip(processes, outputs, strict=True)
    ]


def told_once(results: Sequence[subprocess.CompletedProcess[str]]) -> str:
    """Return the one error line of ranks of one machine that all end with exit code 2 for the same reason."""
    assert [done.returncode for done in results] == [2] * len(results), results[0].stderr
    assert [done.stderr for done in results[1:]] == [""] * (len(results) - 1)
    (line,) = results[0].stderr.splitlines()
    return line


def free_port() -> int:
    """Return an unused port of this machine."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def step_rows(output_dir: Path) -> list[dict[str, Any]]:
    """Return the step rows of a run's `metrics.jsonl`."""
    return read_rows(output_dir / "metrics.jsonl", "step")


def eval_rows(output_dir: Path) -> list[dict[str, Any]]:
    """Return the evaluation rows of a run's `metrics.jsonl`."""
    return read_rows(output_dir / "metrics.jsonl", "eval")


def without_timings(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows without the values that differ between runs."""
    return [{name: value for name, value in row.items() if name not in TIMINGS} for row in rows]


def assert_same_run(found: Path, expected: Path) -> None:
    """Compare metrics without timings, the saved model, and the last checkpoint's weights and moments, bit for bit."""
    assert without_timings(step_rows(found)) == without_timings(step_rows(expected))
    assert without_timings(eval_rows(found)) == without_timings(eval_rows(expected))
    last = max(path.name for path in (expected / "checkpoints").iterdir())
    for name in ("model_save/model.safetensors", f"checkpoints/{last}/model.safetensors",
                 f"checkpoints/{last}/optimizer.safetensors"):  # fmt: skip
        assert (found / name).read_bytes() == (expected / name).read_bytes(), name


def assert_same_losses(found: Path, expected: Path) -> None:
    """Compare the metrics of all steps and evaluations without timings, within the tolerance."""
    for ours, theirs in ((step_rows(found), step_rows(expected)), (eval_rows(found), eval_rows(expected))):
        assert [row["step"] for row in ours] == [row["step"] for row in theirs]
        for row, other in zip(ours, theirs, strict=True):
            for name in set(other) - {*TIMINGS, "event"}:
                close = other[name] if other[name] is None else pytest.approx(other[name], rel=RANKS_TOLERANCE)
                assert row[name] == close, (row["step"], name)


def wait_for_steps(output_dir: Path, steps: int) -> None:
    """Wait until a run has done so many steps."""
    deadline = time.monotonic() + PROCESS_TIMEOUT_SECONDS
    metrics = output_dir / "metrics.jsonl"
    while not metrics.exists() or metrics.read_text().count('"event": "step"') < steps:
        assert time.monotonic() < deadline, f"{metrics} has no {steps} steps"
        time.sleep(0.02)


@dataclass(frozen=True)
class Task:
    """Data, model and settings for `bert-large pretrain`."""

    dataset_dir: Path
    config_file: Path
    settings: dict[str, Any]

    def arguments(self, output_dir: Path, **changes: Any) -> list[str]:
        """Return the command's arguments; a change to None leaves an option out."""
        values = {"dataset_dir": self.dataset_dir, "config_file": self.config_file, **self.settings, **changes}
        return ["pretrain", *options(output_dir=output_dir, **values)]

    def run(self, output_dir: Path, **changes: Any) -> Path:
        """Train in this process, expecting success, and return the output folder."""
        assert run_here(*self.arguments(output_dir, **changes)) == 0
        return output_dir
