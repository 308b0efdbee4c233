"""Kill a run of the demo's size again and again, resume it each time, and compare it with an undisturbed run.

    python -m tests.fault.kills --kills 50 [--ranks 2] [--seed 1] [--folder DIR]

Kills are SIGKILL. Each one waits until files show that the run is in a certain phase, and then for a random time. The
phase in which a kill happened is derived from the files that it left. With several ranks, started by torchrun, a random
one is killed.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from bert_large.storage.integrity import check_checksums

from tests.support.records import make_records, write_folder
from tests.support.runs import (
    PROJECT,
    TIMINGS,
    Task,
    children,
    eval_rows,
    finish,
    run_torchrun,
    start_process,
    start_torchrun,
    step_rows,
    without_timings,
)
from tests.support.tensorboard import tensorboard_scalars

SAVE_EVERY = 2
EVALUATE_EVERY = 5
_GLOBAL_BATCH = 16
_TIMEOUT_SECONDS = 300.0


def demo_task(folder: Path, max_steps: int) -> Task:
    """Return a task with the demo's model and random records that saves and evaluates often."""
    data = folder / "data"
    write_folder(data / "seq_128", make_records(1000, lengths=(40, 128), vocab_size=4096), shards=2)
    write_folder(data / "eval", make_records(150, seed=1, lengths=(40, 128), vocab_size=4096))
    settings = {
        "global_batch_size": _GLOBAL_BATCH, "max_steps": max_steps, "learning_rate": 0.01, "warmup_steps": 5,
        "micro_batch_tokens": 512, "save_every": SAVE_EVERY, "eval_every_samples": EVALUATE_EVERY * _GLOBAL_BATCH,
        "eval_at_start": "true",
    }  # fmt: skip
    return Task(data, PROJECT / "quickstart" / "demo_bert_config.json", settings)


@dataclasses.dataclass
class Killer:
    """Starts the command of a run again and again, and kills it."""

    task: Task
    output: Path
    ranks: int
    random: random.Random
    phases: Counter[str] = dataclasses.field(default_factory=Counter)
    """Number of kills by phase."""

    def kill(self, aim: str) -> bool:
        """Start the run and kill it in phase `aim`; return False if it ended before."""
        process = self._start()
        log_bytes = self._log().stat().st_size if self._log().exists() else 0
        try:
            self._wait_for(aim, process, log_bytes)
            if process.poll() is None:
                os.kill(self._victim(process), signal.SIGKILL)
        finally:
            (done,) = finish([process])
        if (self.output / "ended.json").exists():
            return False
        assert done.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL, 1), done.stderr
        self.phases[self._phase(log_bytes)] += 1
        return True

    def run_to_the_end(self) -> None:
        """Resume a last time, without a kill."""
        (done,) = finish([self._start()])
        assert done.returncode == 0, done.stderr

    def _start(self) -> subprocess.Popen[str]:
        arguments = self.task.arguments(self.output)
        return start_process(*arguments) if self.ranks == 1 else start_torchrun(self.ranks, *arguments)

    def _wait_for(self, aim: str, process: subprocess.Popen[str], log_bytes: int) -> None:
        """Return a random time after the run entered a phase, or when it has ended."""
        checkpoints, rows = self.output / "checkpoints", self._count_rows()

        def is_amid(pattern: str, folder: Path = checkpoints) -> bool:
            return any(folder.glob(pattern))

        # How files show each phase, and the longest time to wait in it, in seconds.
        shows: dict[str, tuple[Callable[[], bool], float]] = {
            "start-up": (lambda: True, 6.0),
            "step": (lambda: self._count_rows() > rows + 1, 0.3),
            "checkpoint": (lambda: is_amid(".partial-step-*"), 0.05),
            "retention": (lambda: is_amid(".partial-removed-*"), 0.0),
            "evaluation": (lambda: self._awaits_evaluation() and self._log().stat().st_size > log_bytes + 2000, 0.1),
            "results": (self.has_last_checkpoint, 0.02),
            "model_save": (lambda: is_amid(".partial-*/*", self.output / "model_save"), 0.01),
        }
        is_there, seconds = shows[aim]
        deadline = time.monotonic() + _TIMEOUT_SECONDS
        while process.poll() is None and not is_there():
            assert time.monotonic() < deadline, f"no {aim} within {_TIMEOUT_SECONDS:.0f} s"
            time.sleep(0.0005)
        time.sleep(self.random.uniform(0, seconds))

    def _victim(self, process: subprocess.Popen[str]) -> int:
        if self.ranks == 1:
            return process.pid
        deadline = time.monotonic() + _TIMEOUT_SECONDS
        while len(workers := children(process.pid)) < self.ranks:
            assert process.poll() is None and time.monotonic() < deadline, "torchrun has started no ranks"
            time.sleep(0.01)
        return self.random.choice(workers)

    def _phase(self, log_bytes: int) -> str:
        """Return the phase in which a kill happened, derived from the files that it left."""
        logged = self._log().read_text()[log_bytes:] if self._log().exists() else ""
        if any(self.output.glob("checkpoints/.partial-step-*")):
            return "a checkpoint's writing"
        if any(self.output.glob("checkpoints/.partial-removed-*")):
            return "a checkpoint's deletion"
        if self.has_last_checkpoint():
            return "the end, before ended.json"
        if "settings from" not in logged:
            return "start-up"
        return "an evaluation" if self._awaits_evaluation() else "a step"

    def has_last_checkpoint(self) -> bool:
        """Return whether the run has only to write its results."""
        last = self.task.settings["max_steps"]
        return (self.output / "checkpoints" / f"step-{last:08d}").exists() and not (self.output / "ended.json").exists()

    def _awaits_evaluation(self) -> bool:
        """Return whether the newest row is that of a step that is followed by an evaluation."""
        metrics = self.output / "metrics.jsonl"
        last = metrics.read_text().rstrip("\n").rpartition("\n")[2] if metrics.exists() else ""
        return '"event": "step"' in last and any(
            f'"step": {step},' in last for step in range(EVALUATE_EVERY, 10_000, EVALUATE_EVERY)
        )

    def _count_rows(self) -> int:
        metrics = self.output / "metrics.jsonl"
        return metrics.read_bytes().count(b"\n") if metrics.exists() else 0

    def _log(self) -> Path:
        return self.output / "train.log"


def assert_same_end(found: Path, expected: Path) -> None:
    """Compare all files of two ended runs without timings: metrics, TensorBoard, checkpoints and model, bit for bit."""
    for rows in (step_rows, eval_rows):
        assert without_timings(rows(found)) == without_timings(rows(expected))
    steps = [row["step"] for row in step_rows(found)]
    assert steps == list(range(1, len(steps) + 1))
    scalars = {tag: values for tag, values in tensorboard_scalars(found).items() if not is_timing(tag)}
    assert scalars == {tag: values for tag, values in tensorboard_scalars(expected).items() if not is_timing(tag)}
    assert [step for step, _ in scalars["train/loss"]] == steps
    assert _files(found) == _files(expected)
    for folder in (found / "model_save", *(found / "checkpoints").iterdir()):
        check_checksums(folder)
    for name in _files(expected):
        if name.parts[0] in ("model_save", "checkpoints"):
            assert (found / name).read_bytes() == (expected / name).read_bytes(), name


def is_timing(tag: str) -> bool:
    """Return whether a scalar differs between equal runs."""
    return tag.partition("/")[2] in TIMINGS


def _files(output: Path) -> list[Path]:
    """Return a run's files without those of TensorBoard, of which each start creates one."""
    paths = (path.relative_to(output) for path in output.rglob("*") if path.is_file())
    return sorted(path for path in paths if path.parts[0] != "tensorboard")


AIMS = ("start-up", "step", "checkpoint", "evaluation", "step", "checkpoint", "retention", "evaluation")
LAST_AIMS = ("results", "model_save")


def kill_often(folder: Path, *, aims: Sequence[str], last_aims: Sequence[str], ranks: int, seed: int) -> Counter[str]:
    """Kill a run once per aim, with `last_aims` at its end; compare it with an undisturbed run, and count the kills."""
    task = demo_task(folder, max_steps=10 + 3 * len(aims))
    killer = Killer(task, folder / "killed", ranks, random.Random(seed))
    for aim in aims:
        assert killer.kill(aim), f"the run ended before all kills: {killer.phases}"
    for aim in last_aims:
        if not killer.kill(aim):  # these phases are short and can be missed on a busy machine
            break
    killer.run_to_the_end()
    if ranks == 1:
        (done,) = finish([start_process(*task.arguments(folder / "undisturbed"))])
    else:
        done = run_torchrun(ranks, *task.arguments(folder / "undisturbed"))
    assert done.returncode == 0, done.stderr
    assert_same_end(folder / "killed", folder / "undisturbed")
    return killer.phases


def main() -> None:
    """Parse the command line, run, and print the number of kills in each phase."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="number of kills, to which some at the end are added")
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="working folder, which is kept (default: a temporary folder)")
    arguments = parser.parse_args()
    aims = [AIMS[number % len(AIMS)] for number in range(arguments.kills)]
    last_aims = [LAST_AIMS[number % len(LAST_AIMS)] for number in range(max(1, arguments.kills // 8))]
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        found = kill_often(folder, aims=aims, last_aims=last_aims, ranks=arguments.ranks, seed=arguments.seed)
    for phase, count in sorted(found.items()):
        sys.stdout.write(f"{count:4d} kills in {phase}\n")
    sys.stdout.write(
        f"{sum(found.values())} kills, {arguments.ranks} rank(s), {time.monotonic() - started:.0f} s: the result is "
        "bit-identical to that of an undisturbed run\n"
    )


if __name__ == "__main__":
    main()
