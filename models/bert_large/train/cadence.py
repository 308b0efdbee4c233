"""When a run evaluates, saves and ends: functions of the number of steps done."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from bert_large.config.training import TrainConfig
from bert_large.data.order import BatchSizes


@dataclass(frozen=True)
class Cadence:
    """The intervals and limits of a run's settings.

    `done` is the number of steps done, `seconds` the time trained, which is 0 if `max_hours` is not set.
    """

    config: TrainConfig

    def samples(self, done: int) -> int:
        """Return the number of sequences trained on."""
        return self.batch_sizes.samples(done)

    @cached_property
    def batch_sizes(self) -> BatchSizes:
        """The number of sequences of each step."""
        config = self.config
        return BatchSizes(config.global_batch_size, config.start_batch_size, config.batch_ramp_steps)

    def reaches_target(self, accuracy: float | None) -> bool:
        """Return whether the masked-LM accuracy of an evaluation, if there was one, reaches the target, if there is."""
        target = self.config.target_accuracy
        return target is not None and accuracy is not None and accuracy >= target

    def reason_to_end(self, done: int, accuracy: float | None = None, seconds: float = 0.0) -> str | None:
        """Return which stop criterion is met, or None; `accuracy` is that of the evaluation after the last step."""
        samples, most = self.samples(done), self.config.max_samples
        if self.reaches_target(accuracy):
            return f"masked_lm_accuracy {accuracy:.5f} reaches the target {self.config.target_accuracy}"
        if done >= self.config.max_steps:
            return f"all {done} steps done"
        if self.config.max_hours is not None and seconds >= 3600 * self.config.max_hours:
            return f"{seconds / 3600:.3f} hours reach --max-hours {self.config.max_hours:g} after {done} steps"
        if most is not None and samples >= most:
            return f"{samples} samples reach --max-samples {most}"
        return None

    def is_time_to_evaluate(self, done: int, seconds: float = 0.0) -> bool:
        """Evaluate at the first step that reaches each multiple of the interval, and at the end of longer runs.

        A run that ends before its first interval is a trial: evaluating a large model can take longer than all of it.
        """
        interval, samples = self.config.eval_every_samples, self.samples(done)
        ends = self.reason_to_end(done, seconds=seconds) is not None
        return samples // interval > self.samples(done - 1) // interval or (ends and samples > interval)

    def block_length(self, samples: int) -> int:
        """Return how many samples are trained from `samples` on until the next evaluation or the end of the run."""
        batch, interval = self.config.global_batch_size, self.config.eval_every_samples
        stops = [(samples // interval + 1) * interval, self.config.max_steps * batch]
        if self.config.max_samples is not None:
            stops.append(self.config.max_samples)
        return -(-min(stops) // batch) * batch - samples
