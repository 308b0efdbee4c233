"""The summary files that users of Intel's package parse: a line in `summary.log`, and `results.yaml`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

from bert_large.observe.metrics import StepFigures, mean
from bert_large.storage.atomic import GrowingFile, write_atomically


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The run in three figures."""

    sequences_per_second: float
    step_seconds: float
    """Mean time of a step."""
    masked_lm_accuracy: float
    """Of the last evaluation if there was one, else of the last step."""

    def throughput_line(self) -> str:
        """Return the line that scripts look for in the log."""
        return f"Throughput: {self.sequences_per_second:.3f} sentence/s"


@dataclass(kw_only=True)
class StepTotals:
    """What a summary needs of all steps so far, in the same memory however many there are."""

    warmup_steps: int
    """The first steps are left out of the timing if there are more."""
    steps: int = 0
    warmup_seconds: float = 0.0
    timed_seconds: float = 0.0
    masked_lm_accuracy: float = 0.0
    """Of the last step."""

    def add(self, figures: StepFigures) -> None:
        """Count one more step."""
        if self.steps < self.warmup_steps:
            self.warmup_seconds += figures.seconds
        else:
            self.timed_seconds += figures.seconds
        self.steps += 1
        self.masked_lm_accuracy = figures.masked_lm_accuracy

    def summarize(self, global_batch_size: int, eval_accuracy: float | None) -> Summary:
        """Return the run's figures; there must have been a step."""
        timed, seconds = self.steps - self.warmup_steps, self.timed_seconds
        if timed <= 0:
            timed, seconds = self.steps, self.warmup_seconds
        return Summary(
            sequences_per_second=mean(timed * global_batch_size, seconds),
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
    text = yaml.safe_dump({"results": entries}, sort_keys=False)
    with write_atomically(output_dir / "results.yaml") as file:
        file.write(text.encode())
