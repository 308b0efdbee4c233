"""Timing of several ways to do the same work, turn by turn, so that a busy machine is unfair to none of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bert_large.observe.progress import Progress


def _nothing(round_: int) -> None:
    pass


@dataclass(frozen=True)
class Variant:
    """One way to do the work. `prepare` comes before each `run` and is not timed; both are told the round, from 0."""

    run: Callable[[int], object]
    prepare: Callable[[int], object] = _nothing


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
        """Seconds of the middle round."""
        return statistics.median(self.seconds)

    def as_figures(self, share: float = 1.0) -> dict[str, Any]:
        """Return the figures for output; `share` turns seconds of a round into those of a part of it."""
        return {
            "minimum": self.minimum * share,
            "median": self.median * share,
            "rounds": [seconds * share for seconds in self.seconds],
        }


def as_figures(timings: Mapping[str, Timing], share: float = 1.0) -> dict[str, dict[str, Any]]:
    """Return the figures of each timing."""
    return {name: timing.as_figures(share) for name, timing in timings.items()}


def best_and_median(timings: Mapping[str, Timing]) -> list[tuple[str, dict[str, float]]]:
    """Return seconds by name, of the fastest rounds and of the middle ones, each after its suffix to figures' names."""
    return [
        ("", {name: timing.minimum for name, timing in timings.items()}),
        ("_median", {name: timing.median for name, timing in timings.items()}),
    ]


def alternate(variants: Mapping[str, Variant], *, rounds: int, warmups: int, visible: bool = True) -> dict[str, Timing]:
    """Run every variant once a round and return the timing of each over `rounds` rounds, after `warmups` untimed ones.

    Every other round goes through the variants backwards, so that none always follows the same one.
    `visible` shows how far it is.
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
