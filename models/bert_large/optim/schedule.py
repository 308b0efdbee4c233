"""The learning-rate schedule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class Schedule(Protocol):
    """The learning rate as a function of the step."""

    def rate(self, step: int) -> float:
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

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0; from `total_steps` on it is 0."""
        warmup_progress = step - self.start_warmup_step
        if warmup_progress < self.warmup_steps:
            return self.learning_rate * warmup_progress / self.warmup_steps
        return self.learning_rate * max(0.0, 1.0 - step / self.total_steps) ** self.decay_power
