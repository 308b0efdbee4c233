"""The interface through which the training loop reports a run's events."""

from __future__ import annotations

from bert_large.observe.metrics import EvalMetrics, StepMetrics


class Observer:
    """Receives a run's events in order; a subclass overrides those it needs. `samples` counts the sequences so far."""

    def step_starts(self, samples: int) -> None:
        """Handle the start of a step, before its data are requested."""

    def step(self, metrics: StepMetrics) -> None:
        """Handle the metrics of a step."""

    def evaluation_starts(self, samples: int) -> None:
        """Handle the start of an evaluation."""

    def evaluation(self, step: int, samples: int, metrics: EvalMetrics) -> None:
        """Handle the metrics of an evaluation after `step` steps."""

    def run_ends(self, samples: int, reached_target: bool) -> None:
        """Handle the end of a run at a stop criterion. Runs that are interrupted or fail do not reach it."""

    def run_fails(self) -> None:
        """Handle an error that ends the run; `close` is not called after it."""

    def flush_to_disk(self) -> None:
        """Flush everything written so far to disk: called before a checkpoint, which relies on it."""

    def close(self) -> None:
        """Close the observer's files."""
