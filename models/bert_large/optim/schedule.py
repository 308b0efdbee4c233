"""The learning-rate schedule."""

from __future__ import annotations

from dataclasses import dataclass

from bert_large.config.training import OptimConfig


@dataclass(frozen=True)
class Schedule:
    """Linear warmup and polynomial decay as in MLCommons' BERT reference.

    The decay is measured from step 0, not from the end of the warmup, so the rate falls when the decay takes over. A
    negative `start_warmup_step` makes step 0 begin in the middle of the warmup.
    """

    config: OptimConfig

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0; from `total_steps` on it is 0."""
        config, warmup_progress = self.config, step - self.config.start_warmup_step
        if warmup_progress < config.warmup_steps:
            return config.learning_rate * warmup_progress / config.warmup_steps
        return config.learning_rate * max(0.0, 1.0 - step / config.total_steps) ** config.decay_power
