"""The summary files that users of Intel's package parse: a line in `summary.log`, and `results.yaml`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

from bert_large.observe.metrics import StepMetrics, mean
from bert_large.storage.atomic import GrowingFile, write_atomically


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A run's throughput, step time and accuracy."""

    sequences_per_second: float
    step_seconds: float
    """Mean time of a step."""
    masked_lm_accuracy: float
    """Accuracy of the last evaluation, or of the last step if there was no evaluation."""

    def throughput_line(self) -> str:
        """Return the log line that users' scripts parse."""
        return f"Throughput: {self.sequences_per_second:.3f} sentence/s"


@dataclass(kw_only=True)
class StepTotals:
    """Totals over steps from which a summary is computed, in constant memory."""

    warmup_steps: int
    """The number of first steps left out of the timing, unless there are no others."""
    steps: int = 0
    warmup_seconds: float = 0.0
    timed_seconds: float = 0.0
    warmup_sequences: float = 0.0
    timed_sequences: float = 0.0
    masked_lm_accuracy: float = 0.0
    """Accuracy of the last step."""

    def add(self, metrics: StepMetrics) -> None:
        """Count one more step."""
        sequences = metrics.sequences_per_second * metrics.seconds
        if self.steps < self.warmup_steps:
            self.warmup_seconds += metrics.seconds
            self.warmup_sequences += sequences
        else:
            self.timed_seconds += metrics.seconds
            self.timed_sequences += sequences
        self.steps += 1
        self.masked_lm_accuracy = metrics.masked_lm_accuracy

    def summarize(self, eval_accuracy: float | None) -> Summary:
        """Return the summary of at least one step."""
        timed, seconds, sequences = self.steps - self.warmup_steps, self.timed_seconds, self.timed_sequences
        if timed <= 0:
            timed, seconds, sequences = self.steps, self.warmup_seconds, self.warmup_sequences
        return Summary(
            sequences_per_second=mean(sequences, seconds),
            step_seconds=mean(seconds, timed),
            masked_lm_accuracy=self.masked_lm_accuracy if eval_accuracy is None else eval_accuracy,
        )


def write_results(output_dir: Path, summary: Summary, *, phase: int, precision: str, global_batch_size: int) -> None:
    """Append to `summary.log` and write `results.yaml`."""
    line = f"BERT;training phase{phase} throughput;{precision}; {global_batch_size};{summary.sequences_per_second:.3f}"
    summary_log = GrowingFile(output_dir / "summary.log")
    summary_log.append(f"{line}\n".encode())
    summary_log.close()
    entries = [
        {"key": "throughput", "value": round(summary.sequences_per_second, 3), "unit": "sentence/s"},
        {"key": "latency", "value": round(summary.step_seconds, 6), "unit": "s/step"},
        {"key": "accuracy", "value": round(summary.masked_lm_accuracy, 6), "unit": "masked_lm_accuracy"},
    ]
    with write_atomically(output_dir / "results.yaml") as file:
        file.write(yaml.safe_dump({"results": entries}, sort_keys=False).encode())
