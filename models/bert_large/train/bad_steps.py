"""Steps without an update, and losses that rise: what a run records about them, and when it ends because of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bert_large.errors import UserError
from bert_large.storage.atomic import write_json

TREND_STEPS = 100
BAD_BATCH_FILE = "bad_batch.json"


class NonFiniteLossError(UserError):
    """The loss, the gradient or the weights are NaN or infinite, and the run cannot recover from it."""


class DivergedError(UserError):
    """The loss rose further above its lowest value than `--detect-divergence` allows."""


@dataclass(frozen=True)
class SkippedSteps:
    """Counts of steps whose loss or gradient was not finite, so that no update was made."""

    total: int = 0
    """Number of such steps in the whole run."""
    in_a_row: int = 0
    """Number of such steps since the last update."""

    def after_update(self) -> SkippedSteps:
        """Return the counts after a step with an update."""
        return replace(self, in_a_row=0)

    def after_skip(self) -> SkippedSteps:
        """Return the counts after a step without an update."""
        return SkippedSteps(self.total + 1, self.in_a_row + 1)


@dataclass(frozen=True)
class LossTrend:
    """Running mean of the masked-LM loss over about `TREND_STEPS` steps, and its lowest value so far.

    The mean weighs older steps exponentially less; during the first `TREND_STEPS` steps it is their plain mean.
    """

    steps: int = 0
    mean: float = 0.0
    lowest: float | None = None
    """None during the first `TREND_STEPS` steps, whose mean is still noisy."""

    def after(self, loss: float) -> LossTrend:
        """Return the trend after a step with this (finite) loss."""
        steps = self.steps + 1
        mean = self.mean + (loss - self.mean) / min(steps, TREND_STEPS)
        if steps < TREND_STEPS:
            return LossTrend(steps, mean)
        return LossTrend(steps, mean, mean if self.lowest is None else min(mean, self.lowest))

    @property
    def rise(self) -> float:
        """Difference between the mean and its lowest value, in nats; 0 if there is no lowest value yet."""
        return 0.0 if self.lowest is None else self.mean - self.lowest

    def require_rise_below(self, limit: float, step: int) -> None:
        """Raise `DivergedError` if the loss has risen by more than `limit` at `step`."""
        if self.rise > limit:
            raise DivergedError(
                f"step {step}: the mean masked-LM loss of about {TREND_STEPS} steps is {self.mean:.4f}, "
                f"{self.rise:.4f} above its lowest; --detect-divergence allows {limit:g}. Train with a lower "
                "--learning-rate or a longer warmup in an empty OUTPUT_DIR, or run the same command without "
                "--detect-divergence to continue"
            )


def write_bad_batches(
    output_dir: Path, reason: str, steps: range, describe_samples: Callable[[int], list[dict[str, Any]]]
) -> None:
    """Write to `bad_batch.json` which records the bad `steps` (from 0) trained on."""
    batches = [{"step": step + 1, "samples": describe_samples(step)} for step in steps]
    write_json(output_dir / BAD_BATCH_FILE, {"reason": reason, "batches": batches})
