"""Learning-rate schedules."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


class Schedule(Protocol):
    """The learning rate as a function of the step."""

    def rate(self, step: float) -> float:
        """Return the learning rate of a step, counted from 0."""
        ...


@dataclass(frozen=True, kw_only=True)
class PolynomialSchedule:
    """Linear warmup and polynomial decay as in MLCommons' BERT reference.

    The decay is measured from step 0, not from the end of the warmup, so the learning rate falls when the decay takes
    over. A negative `start_warmup_step` makes step 0 begin in the middle of the warmup.
    """

    learning_rate: float
    total_steps: int
    warmup_steps: int = 0
    start_warmup_step: int = 0
    decay_power: float = 1.0

    def rate(self, step: float) -> float:
        """Return the learning rate of a step, counted from 0; from `total_steps` on it is 0."""
        warmup_progress = step - self.start_warmup_step
        if warmup_progress < self.warmup_steps:
            return self.learning_rate * warmup_progress / self.warmup_steps
        return self.learning_rate * max(0.0, 1.0 - step / self.total_steps) ** self.decay_power


def linear(progress: float) -> float:
    """Decay of BERT's and RoBERTa's code, and of `get_linear_schedule_with_warmup` in `transformers`."""
    return 1.0 - progress


def cosine(progress: float) -> float:
    """Half a period of the cosine (Loshchilov and Hutter 2016, SGDR, arXiv:1608.03983, without restarts)."""
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def one_minus_sqrt(progress: float) -> float:
    """Decay that Hägele et al. 2024 (arXiv:2405.18392) find best after a constant rate."""
    return 1.0 - math.sqrt(progress)


@dataclass(frozen=True, kw_only=True)
class WarmupDecaySchedule:
    """Linear warmup to the peak, a constant rate, and a decay to 0 over the last steps.

    With a `decay_fraction` of 1 the decay begins where the warmup ends. With less, this is the warmup-stable-decay
    schedule (Hu et al. 2024, MiniCPM, arXiv:2404.06395), which decays over that fraction of `total_steps`.
    """

    learning_rate: float
    total_steps: int
    curve: Callable[[float], float]
    """Share of the peak as a function of the progress of the decay, from 0 to 1."""
    warmup_steps: int = 0
    start_warmup_step: int = 0
    decay_fraction: float = 1.0

    def rate(self, step: float) -> float:
        """Return the learning rate of a step, counted from 0; from `total_steps` on it is 0."""
        warmup_end = self.start_warmup_step + self.warmup_steps
        if step < warmup_end:
            return self.learning_rate * (step - self.start_warmup_step) / self.warmup_steps
        decay_start = max(warmup_end, 0, self.total_steps * (1.0 - self.decay_fraction))
        if step >= self.total_steps:
            return 0.0
        progress = (step - decay_start) / (self.total_steps - decay_start)
        return self.learning_rate * self.curve(max(0.0, progress))


@dataclass(frozen=True, kw_only=True)
class OneCycleSchedule:
    """A rise and a fall, both along half a cosine (Smith and Topin 2017, arXiv:1708.07120).

    The rate rises from 1/25 of the peak to the peak at step `warmup_steps`, and falls to 1/250,000 of the peak at the
    last step, as PyTorch's `OneCycleLR` does by default.
    """

    learning_rate: float
    total_steps: int
    warmup_steps: int

    def rate(self, step: float) -> float:
        """Return the learning rate of a step, counted from 0; after the last step it stays at its lowest value."""
        start = self.learning_rate / 25
        if step < self.warmup_steps:
            return self._between(start, self.learning_rate, step / self.warmup_steps)
        last = self.total_steps - 1
        progress = (step - self.warmup_steps) / (last - self.warmup_steps) if step < last else 1.0
        return self._between(self.learning_rate, start / 1e4, progress)

    @staticmethod
    def _between(first: float, last: float, progress: float) -> float:
        return last + (first - last) * cosine(progress)


@dataclass(frozen=True, kw_only=True)
class TimedSchedule:
    """A schedule of steps stretched over a budget of time (Izsak et al. 2021, arXiv:2104.07705, 3.2)."""

    schedule: Schedule
    total_steps: int
    """Length of `schedule`."""
    time_share: Callable[[], float]
    """Returns the share of the budget that has been used, from 0 to 1."""

    def rate(self, step: float) -> float:
        """Return the rate of the present time, whatever the number of the step."""
        return self.schedule.rate(self.time_share() * self.total_steps)
