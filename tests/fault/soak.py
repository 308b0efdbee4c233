"""Train for hours and watch memory, open files, threads and speed for signs of a leak.

    python -m tests.fault.soak --minutes 120 [--engine eager] [--folder DIR]

A run of the demo's model on random records, which evaluates and saves often, is watched from outside and then asked to
stop. The start, in which caches fill, is left out. After it, a robust trend (the median of the slopes between any two
points, Theil and Sen) measures the change of each value over the whole time, so that short loads by other processes do
not count. Long ones would: neighbors on the same memory can slow a machine down to a fraction of its speed. Therefore
the watcher repeats a fixed piece of the same work, and speed is measured relative to it. `soak.json` and `soak.md` in
the folder contain the samples and the verdict.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bert_large.config.model import ModelConfig
from bert_large.data.batch import make_batch
from bert_large.engines.eager import EagerEngine
from bert_large.model.bert import BertForPreTraining
from bert_large.observe.machine import describe_software
from bert_large.tables import format_markdown

from tests.support.records import make_records, write_folder
from tests.support.runs import PROJECT, Task, process_environment, step_rows

_SAMPLE_SECONDS = 5.0
_WINDOW_SECONDS = 60.0
_WARMUP_SECONDS = 600.0
_WARMUP_SHARE = 0.1
_START_SECONDS = 300.0
_STOP_SECONDS = 300.0
_KEEP_CHECKPOINTS = 2
_CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
_MODEL = PROJECT / "tests" / "fault" / "demo_bert_config.json"
_RECORDS: dict[str, Any] = {"lengths": (40, 128), "vocab_size": 4096}


@dataclass(frozen=True)
class Sample:
    """Resources of the trainer and all processes that it started, at one time."""

    seconds: float
    """Time since the first sample."""
    rss_bytes: int
    """Resident memory as shown by `ps`: shared pages count for each process."""
    own_bytes: int
    """Anonymous memory, the proportional part of shared memory, and swapped memory; without pages of files."""
    open_files: int
    threads: int
    cpu_seconds: float
    """CPU time used so far, including that of processes that have ended."""
    steps: int
    tokens: float
    reference_seconds: float
    """CPU time of the reference's step."""


class Reference:
    """A fixed piece of similar work: forward and backward pass of the same model in plain PyTorch, on one thread."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        self._model = BertForPreTraining(ModelConfig.from_json(_MODEL), EagerEngine())
        self._model.initialize(0)
        self._batch = make_batch(make_records(16, **_RECORDS), range(16))

    def cpu_seconds(self) -> float:
        """Run it, and return its CPU time."""
        start = time.process_time()
        self._model.zero_grad()
        self._model(self._batch, None).masked_lm_loss.backward()
        return time.process_time() - start


@dataclass(frozen=True)
class Window:
    """A minute of a run, or a shorter part of a short one."""

    minutes: float
    """Middle of the window, since the first sample."""
    steps: int
    sequences_per_second: float
    """Median over the steps; NaN if there were none."""
    tokens_per_cpu_second: float
    """Includes evaluations and checkpoints. Other processes' CPU time does not lower it, slower memory does."""
    tokens_per_reference: float
    """The same per CPU time of a step of the reference, which a slower machine does not lower."""
    rss_bytes: float
    own_bytes: float
    open_files: float
    threads: float


@dataclass(frozen=True)
class Check:
    """The change of a value over the time after the start, and its limit."""

    name: str
    change: float
    limit: float
    unit: str
    either_way: bool = False
    """A decrease is a failure too."""

    @property
    def passes(self) -> bool:
        """Whether the change is within the limit."""
        return (abs(self.change) if self.either_way else self.change) < self.limit

    def __str__(self) -> str:
        sign = "±" if self.either_way else "+"
        verdict = "ok" if self.passes else "FAILED"
        return f"{self.name}: {self.change:+.2f} {self.unit} (limit {sign}{self.limit:g} {self.unit}): {verdict}"


def soak_task(folder: Path, **settings: Any) -> Task:
    """Return an endless task with the demo's model that evaluates and saves every few seconds."""
    data = folder / "data"
    write_folder(data / "seq_128", make_records(2000, **_RECORDS), shards=4)
    write_folder(data / "eval", make_records(150, seed=1, **_RECORDS))
    endless = 10**8
    defaults = {
        "global_batch_size": 32, "max_steps": endless, "learning_rate": 1e-4, "warmup_steps": 40,
        "micro_batch_tokens": 2048, "save_every": 50, "keep_checkpoints": _KEEP_CHECKPOINTS,
        "eval_every_samples": 20 * 32,
    }  # fmt: skip
    return Task(data, _MODEL, defaults | settings)


class Watcher:
    """Samples a trainer and its children, and reads its `metrics.jsonl` as it grows."""

    def __init__(self, pid: int, output: Path) -> None:
        self._pid = pid
        self._metrics = output / "metrics.jsonl"
        self._read_bytes = 0
        self._start: float | None = None
        self.steps: list[tuple[float, float]] = []
        """For every step: when it was seen, and its sequences per second."""
        self.evaluations = 0
        self._tokens = 0.0
        self._reference = Reference()

    def sample(self) -> Sample:
        """Take a sample."""
        now = time.monotonic()
        self._start = now if self._start is None else self._start
        self._read_rows(now - self._start)
        processes = [values for pid in family(self._pid) if (values := _read_process(pid)) is not None]
        totals = np.sum(processes, axis=0) if processes else np.zeros(5)
        return Sample(now - self._start, int(totals[0]), int(totals[1]), int(totals[2]), int(totals[3]),
                      float(totals[4]), len(self.steps), self._tokens, self._reference.cpu_seconds())  # fmt: skip

    def _read_rows(self, seconds: float) -> None:
        if not self._metrics.exists():
            return
        with self._metrics.open("rb") as file:
            file.seek(self._read_bytes)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._read_bytes += len(whole)
        for row in map(json.loads, whole.splitlines()):
            if row["event"] == "eval":
                self.evaluations += 1
            else:
                self.steps.append((seconds, row["sequences_per_second"]))
                self._tokens += row["tokens_per_second"] * row["seconds"]


def family(pid: int) -> Iterator[int]:
    """Yield a process and all its descendants."""
    yield pid
    for thread in _list(Path(f"/proc/{pid}/task")):
        try:
            children = Path(f"/proc/{pid}/task/{thread}/children").read_text().split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        for child in children:
            yield from family(int(child))


def _list(folder: Path) -> list[str]:
    try:
        return [path.name for path in folder.iterdir()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def _read_process(pid: int) -> tuple[float, float, float, float, float] | None:
    """Return resident and own bytes, open files, threads and CPU seconds; None if the process has ended."""
    process = Path(f"/proc/{pid}")
    try:
        memory = dict(line.split()[:2] for line in (process / "smaps_rollup").read_text().splitlines()[1:])
        times = (process / "stat").read_text().rpartition(")")[2].split()[11:15]  # also of ended children
    except (FileNotFoundError, ProcessLookupError):
        return None
    own = sum(int(memory[f"{name}:"]) for name in ("Pss_Anon", "Pss_Shmem", "SwapPss"))
    return (
        1024 * int(memory["Rss:"]),
        1024 * own,
        len(_list(process / "fd")),
        len(_list(process / "task")),
        sum(map(int, times)) / _CLOCK_TICKS,
    )


def soak(task: Task, output: Path, seconds: float) -> tuple[list[Sample], Watcher]:
    """Run the task for so long after its first step, stop it, and return the samples.

    Raises `AssertionError` if the run does not start, ends early or does not stop on request.
    """
    output.mkdir(parents=True, exist_ok=True)
    with (output / "console.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "bert_large", *task.arguments(output)],
            env=process_environment(OMP_NUM_THREADS=os.environ.get("OMP_NUM_THREADS", "1")),
            stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        _wait_for_first_step(process, output)
        watcher = Watcher(process.pid, output)
        interval = min(_SAMPLE_SECONDS, seconds / 60)
        samples = [watcher.sample()]
        while samples[-1].seconds < seconds:
            time.sleep(interval)
            assert process.poll() is None, f"the run ended early, with exit code {process.returncode}: see {log.name}"
            samples.append(watcher.sample())
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=_STOP_SECONDS) == 128 + signal.SIGTERM, f"see {log.name}"
    finally:
        process.kill()
        process.wait()
    _check_outputs(output, watcher)
    return samples, watcher


def _wait_for_first_step(process: subprocess.Popen[bytes], output: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    metrics = output / "metrics.jsonl"
    while not (metrics.exists() and b'"step"' in metrics.read_bytes()):
        assert process.poll() is None and time.monotonic() < deadline, f"no first step: see {output / 'console.log'}"
        time.sleep(0.2)


def _check_outputs(output: Path, watcher: Watcher) -> None:
    steps = [row["step"] for row in step_rows(output)]
    assert steps == list(range(1, len(steps) + 1)), "steps are missing from metrics.jsonl, or there twice"
    assert watcher.evaluations > 0, "there was no evaluation: run longer"
    kept = [path.name for path in (output / "checkpoints").iterdir()]
    assert len(kept) == _KEEP_CHECKPOINTS, f"checkpoints are not removed: {kept}"


def windows_of(samples: Sequence[Sample], watcher: Watcher) -> list[Window]:
    """Return medians and rates of each minute, or of each twentieth of a shorter run."""
    end = samples[-1].seconds
    length = min(_WINDOW_SECONDS, end / 20)
    windows = []
    for number in range(round(end / length)):
        start, stop = number * length, (number + 1) * length
        inside = [sample for sample in samples if start <= sample.seconds <= stop]
        if len(inside) < 2:
            continue
        speeds = [speed for seconds, speed in watcher.steps if start < seconds <= stop]
        cpu_seconds = inside[-1].cpu_seconds - inside[0].cpu_seconds
        tokens_per_cpu_second = (inside[-1].tokens - inside[0].tokens) / cpu_seconds if cpu_seconds else float("nan")
        windows.append(Window(
            minutes=(start + stop) / 120,
            steps=inside[-1].steps - inside[0].steps,
            sequences_per_second=statistics.median(speeds) if speeds else float("nan"),
            tokens_per_cpu_second=tokens_per_cpu_second,
            tokens_per_reference=tokens_per_cpu_second * statistics.mean(sample.reference_seconds for sample in inside),
            **{name: statistics.median(getattr(sample, name) for sample in inside)
               for name in ("rss_bytes", "own_bytes", "open_files", "threads")},
        ))  # fmt: skip
    return windows


def change_over(times: Sequence[float], values: Sequence[float]) -> float:
    """Return the change of values from the first time to the last by their Theil-Sen trend, ignoring NaN."""
    x, y = np.asarray(times, float), np.asarray(values, float)
    x, y = x[np.isfinite(y)], y[np.isfinite(y)]
    first, second = np.triu_indices(len(x), k=1)
    apart = x[second] > x[first]
    slopes = (y[second] - y[first])[apart] / (x[second] - x[first])[apart]
    return float(np.median(slopes) * (x[-1] - x[0]))


def judge(windows: Sequence[Window], memory_limit_percent: float = 1.0) -> list[Check]:
    """Return the checks after the start, which is the first ten minutes, or the first tenth of a shorter run."""
    end = windows[-1].minutes
    start = min(_WARMUP_SECONDS / 60, _WARMUP_SHARE * end)
    counted = [window for window in windows if window.minutes > start]
    minutes = [window.minutes for window in counted]

    def change(name: str) -> float:
        return change_over(minutes, [getattr(window, name) for window in counted])

    def percent(name: str) -> float:
        return 100 * change(name) / float(np.nanmedian([getattr(window, name) for window in counted]))

    return [
        Check("own memory", percent("own_bytes"), memory_limit_percent, "%"),
        Check("open files", change("open_files"), 1, "files"),
        Check("threads", change("threads"), 1, "threads"),
        Check(
            "throughput, tokens in the time of the reference's step",
            percent("tokens_per_reference"),
            5,
            "%",
            either_way=True,
        ),
    ]


def describe(windows: Sequence[Window]) -> list[list[str]]:
    """Return the windows as rows of a table."""
    head = ["minute", "steps", "sequences/s", "tokens per CPU s", "tokens per reference step", "resident MB", "own MB",
            "open files", "threads"]  # fmt: skip
    return [head] + [
        [f"{window.minutes:.1f}", str(window.steps), f"{window.sequences_per_second:.1f}",
         f"{window.tokens_per_cpu_second:.0f}", f"{window.tokens_per_reference:.0f}",
         f"{window.rss_bytes / 1e6:.1f}", f"{window.own_bytes / 1e6:.1f}",
         f"{window.open_files:g}", f"{window.threads:g}"]
        for window in windows
    ]  # fmt: skip


def write_record(folder: Path, windows: Sequence[Window], checks: Sequence[Check], watcher: Watcher) -> str:
    """Write `soak.json` and `soak.md`, and return the text of the latter."""
    software = describe_software()
    record = {
        "software": software, "steps": len(watcher.steps), "evaluations": watcher.evaluations,
        "checks": [{**asdict(check), "passes": check.passes} for check in checks],
        "windows": [asdict(window) for window in windows],
    }  # fmt: skip
    (folder / "soak.json").write_text(json.dumps(record, indent=1) + "\n")
    text = (
        f"{time.strftime('%Y-%m-%d')}, {software['cpu']}, torch {software['torch']}: {len(watcher.steps)} steps and "
        f"{watcher.evaluations} evaluations in {windows[-1].minutes:.0f} minutes\n\n"
        f"{format_markdown(describe(windows))}\n\n" + "".join(f"- {check}\n" for check in checks)
    )
    (folder / "soak.md").write_text(text)
    return text


def main() -> int:
    """Parse the command line, run, and print the table and the verdict; return 1 if a check fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--folder", type=Path, default=PROJECT / "output" / "soak", help="a new working folder")
    arguments = parser.parse_args()
    if (arguments.folder / "run").exists():
        parser.error(f"--folder {arguments.folder} contains a soak already: give another folder, or delete it")
    task = soak_task(arguments.folder, engine=arguments.engine)
    samples, watcher = soak(task, arguments.folder / "run", 60 * arguments.minutes)
    windows = windows_of(samples, watcher)
    checks = judge(windows)
    sys.stdout.write(write_record(arguments.folder, windows, checks, watcher))
    return 0 if all(check.passes for check in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
