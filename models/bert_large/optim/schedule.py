"""The learning rate of each step."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Linear warmup beside polynomial decay, as MLCommons' BERT reference has it: warmup does not shift the decay."""

    learning_rate: float
    total_steps: int
    warmup_steps: int = 0
    start_warmup_step: int = 0
    decay_power: float = 1.0

    def rate(self, step: int) -> float:
        """Return the rate of `step`, counted from 0; 0 from `total_steps` on."""
        warmup_progress = step - self.start_warmup_step
        if warmup_progress < self.warmup_steps:
            return self.learning_rate * warmup_progress / self.warmup_steps
        return self.learning_rate * max(0.0, 1.0 - step / self.total_steps) ** self.decay_power
