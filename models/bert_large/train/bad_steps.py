"""Steps that went wrong: what a run knows of them, and when it is enough."""

from __future__ import annotations

from dataclasses import dataclass, replace

TREND_STEPS = 100


@dataclass(frozen=True)
class SkippedSteps:
    """Steps whose loss or gradient was not finite, so that no update was made."""

    total: int = 0
    """Of the whole run."""
    in_a_row: int = 0
    """Up to the last step."""

    def after_update(self) -> SkippedSteps:
        """Return the count after a step with an update."""
        return replace(self, in_a_row=0)

    def after_skip(self) -> SkippedSteps:
        """Return the count after a step without one."""
        return SkippedSteps(self.total + 1, self.in_a_row + 1)


@dataclass(frozen=True)
class LossTrend:
    """The masked-LM loss's running mean over about `TREND_STEPS` steps, and the lowest that it was.

    The mean weighs older steps exponentially less; as long as there are fewer steps it is that of all.
    """

    steps: int = 0
    mean: float = 0.0
    lowest: float | None = None
    """None until the mean is over `TREND_STEPS` steps: the first ones alone say little."""

    def after(self, loss: float) -> LossTrend:
        """Return the trend after a step with this (finite) loss."""
        steps = self.steps + 1
        mean = self.mean + (loss - self.mean) / min(steps, TREND_STEPS)
        if steps < TREND_STEPS:
            return LossTrend(steps, mean)
        return LossTrend(steps, mean, mean if self.lowest is None else min(mean, self.lowest))

    @property
    def rise(self) -> float:
        """How far the mean is above its lowest value, in nats; 0 as long as there is none."""
        return 0.0 if self.lowest is None else self.mean - self.lowest
