"""The soak detects leaks; a short one of a real run. `python -m tests.fault.soak` is the long form."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.fault.soak import Check, Window, change_over, family, judge, soak, soak_task, windows_of, write_record

MINUTES = 120


def windows(**per_minute: float) -> list[Window]:
    """Return two hours whose values grow by so much per minute after the first ten, with noise from other processes."""
    flat = {"sequences_per_second": 100.0, "tokens_per_cpu_second": 1000.0, "tokens_per_reference": 100.0,
            "rss_bytes": 2e9, "own_bytes": 1e9, "open_files": 40.0, "threads": 12.0}  # fmt: skip
    rng = np.random.default_rng(1)
    result = []
    for minute in range(MINUTES):
        grown = {name: value + per_minute.get(name, 0.0) * max(0, minute - 10) for name, value in flat.items()}
        if minute < 10:
            grown["own_bytes"] *= 0.5 + minute / 20  # caches fill
        grown["tokens_per_reference"] *= rng.uniform(0.97, 1.03)
        if minute % 9 == 0:
            grown["tokens_per_reference"] *= 0.3
        result.append(Window(minutes=minute + 0.5, steps=500, **grown))
    return result


def failed(checks: list[Check]) -> set[str]:
    return {check.name.partition(",")[0] for check in checks if not check.passes}


@pytest.mark.parametrize(
    ("per_minute", "expected"),
    [
        ({}, set()),
        ({"own_bytes": 0.05e6}, set()),
        ({"own_bytes": 0.15e6}, {"own memory"}),
        ({"own_bytes": -1e6}, set()),
        ({"open_files": 0.02}, {"open files"}),
        ({"threads": 0.02}, {"threads"}),
        ({"tokens_per_reference": -0.1}, {"throughput"}),
        ({"tokens_per_reference": 0.1}, {"throughput"}),
        ({"tokens_per_cpu_second": -5.0}, set()),  # the machine is slower, also for the reference
    ],
)
def test_verdicts(per_minute: dict[str, float], expected: set[str]) -> None:
    """A leak of one ten-thousandth per minute is detected; the start and short loads by others do not count."""
    assert failed(judge(windows(**per_minute))) == expected


def test_trends() -> None:
    times = list(range(11))
    assert change_over(times, [5.0 + 2 * time for time in times]) == pytest.approx(20)
    assert change_over(times, [5.0] * 5 + [float("nan"), 900.0] + [5.0] * 4) == 0


def test_the_whole_family_is_counted() -> None:
    """Including children of children."""
    inner = f"import subprocess, sys; subprocess.run([{sys.executable!r}, '-c', 'input()'])"
    outer = subprocess.Popen([sys.executable, "-c", inner], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        while len(found := list(family(outer.pid))) < 2:
            assert outer.poll() is None
        assert found[0] == outer.pid and outer.pid in family(os.getpid())
    finally:
        outer.communicate(b"\n")
    assert list(family(outer.pid)) == [outer.pid]  # a process that has ended has no children, which is not an error


@pytest.mark.slow
def test_a_short_soak(tmp_path: Path) -> None:
    """The numbers of files and threads do not grow; half a minute is too short to distinguish a leak from caches."""
    task = soak_task(tmp_path, engine="eager", save_every=10, eval_every_samples=5 * 32)
    samples, watcher = soak(task, tmp_path / "run", seconds=25)
    found = windows_of(samples, watcher)
    checks = judge(found, memory_limit_percent=30)
    assert failed(checks) <= {"throughput"}
    assert samples[0].own_bytes > 50e6 and samples[-1].cpu_seconds > samples[0].cpu_seconds
    text = write_record(tmp_path, found, checks, watcher)
    assert text == (tmp_path / "soak.md").read_text() and (tmp_path / "soak.json").exists()
    assert dataclasses.asdict(found[0]).keys() >= {"sequences_per_second", "own_bytes", "open_files", "threads"}
