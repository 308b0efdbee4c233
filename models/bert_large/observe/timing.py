"""Timing of several ways to do the same work in alternating rounds, so that other load on the machine affects all."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bert_large.observe.progress import Progress

LARGEST_SPREAD = 0.1
"""Largest distance of the quartiles of a value, relative to its median, at which the median is reported."""


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

    def over(self, other: Timing) -> list[float]:
        """Return the ratios to another variant's seconds in the same rounds.

        Load that slows a whole round cancels out in its ratio. It does not in a ratio of the fastest rounds, which may
        have been minutes apart.
        """
        return [own / others for own, others in zip(self.seconds, other.seconds, strict=True)]

    def rates(self, amount: float) -> list[float]:
        """Return the amount per second of each round."""
        return [amount / seconds for seconds in self.seconds]

    def as_dict(self, share: float = 1.0) -> dict[str, Any]:
        """Return the seconds for output, each multiplied by `share`, such as one over the steps per round."""
        return {"median": self.median * share, "rounds": [seconds * share for seconds in self.seconds]}


def as_dicts(timings: Mapping[str, Timing], share: float = 1.0) -> dict[str, dict[str, Any]]:
    """Return `Timing.as_dict` of each timing."""
    return {name: timing.as_dict(share) for name, timing in timings.items()}


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Return the median and the quartiles of a value that was measured in every round, for output."""
    quartiles = statistics.quantiles(values, n=4, method="inclusive")[::2] if len(values) > 1 else [*values] * 2
    return {"median": statistics.median(values), "quartiles": quartiles}


def is_steady(result: Mapping[str, Any]) -> bool:
    """Return whether the quartiles of a `spread` are close enough for its median to mean something."""
    lower, upper = result["quartiles"]
    return upper - lower <= LARGEST_SPREAD * abs(result["median"])


def format_spread(result: Mapping[str, Any], unit: str = "", scale: float = 1.0) -> str:
    """Return the median and the quartiles of a `spread` divided by `scale`, or only the quartiles if not steady."""
    lower, upper = (f"{value / scale:.4g}" for value in result["quartiles"])
    text = (
        f"{result['median'] / scale:.4g} ({lower} to {upper})" if is_steady(result) else f"unsteady, {lower} to {upper}"
    )
    return f"{text} {unit}".strip()


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
