"""Timing of several ways to do the same work in alternating rounds, so that other load on the machine affects all."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bert_large.observe.progress import Progress


@dataclass(frozen=True)
class Variant:
    """One way to do the work. `prepare` runs before each `run` and is not timed; both get the round, counted from 0."""

    run: Callable[[int], object]
    prepare: Callable[[int], object] = lambda round_: None


@dataclass(frozen=True)
class Timing:
    """Seconds of each timed round, in order."""

    seconds: list[float]

    @property
    def minimum(self) -> float:
        """Seconds of the fastest round: what the machine can do when nothing disturbs it."""
        return min(self.seconds)

    @property
    def median(self) -> float:
        """Median seconds of a round."""
        return statistics.median(self.seconds)

    def as_dict(self, share: float = 1.0) -> dict[str, Any]:
        """Return the seconds for output, each multiplied by `share`, such as one over the steps per round."""
        return {
            "minimum": self.minimum * share,
            "median": self.median * share,
            "rounds": [seconds * share for seconds in self.seconds],
        }


def as_dicts(timings: Mapping[str, Timing], share: float = 1.0) -> dict[str, dict[str, Any]]:
    """Return `Timing.as_dict` of each timing."""
    return {name: timing.as_dict(share) for name, timing in timings.items()}


def best_and_median(timings: Mapping[str, Timing]) -> list[tuple[str, dict[str, float]]]:
    """Return the key suffix and the seconds by name, first of the fastest rounds, then of the median ones."""
    return [
        ("", {name: timing.minimum for name, timing in timings.items()}),
        ("_median", {name: timing.median for name, timing in timings.items()}),
    ]


def alternate(variants: Mapping[str, Variant], *, rounds: int, warmups: int, visible: bool = True) -> dict[str, Timing]:
    """Run every variant once per round and return its timing over `rounds` rounds, after `warmups` untimed ones.

    Every second round runs the variants in reverse order, so that no variant always follows the same one (and finds
    its data in the caches). `visible` shows a progress bar.
    """
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    progress = Progress((warmups + rounds) * len(variants), "run", visible=visible)
    try:
        for round_ in range(warmups + rounds):
            for name in list(variants)[:: -1 if round_ % 2 else 1]:
                progress.within(name)
                variants[name].prepare(round_)
                started = time.perf_counter()
                variants[name].run(round_)
                elapsed = time.perf_counter() - started
                if round_ >= warmups:
                    seconds[name].append(elapsed)
                progress.advance()
    finally:
        progress.close()
    return {name: Timing(values) for name, values in seconds.items()}
