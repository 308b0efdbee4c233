"""What the training loop tells of a run; who listens writes it where it belongs."""

from __future__ import annotations

from typing import Protocol

from bert_large.observe.metrics import EvalFigures, StepFigures


class Observer(Protocol):
    """Told of a run's course, in order. `samples` are the sequences trained on so far."""

    def step_starts(self, samples: int) -> None:
        """Take note that a step begins; its data are not asked for yet."""

    def step(self, figures: StepFigures) -> None:
        """Take note of what a step gave."""

    def evaluation_starts(self, samples: int) -> None:
        """Take note that an evaluation begins."""

    def evaluation(self, step: int, trained_samples: int, figures: EvalFigures) -> None:
        """Take note of what an evaluation gave, after `step` steps on `trained_samples` sequences."""

    def run_ends(self, samples: int, reached_target: bool) -> None:
        """Take note that a stop criterion is met; a run that is interrupted or fails does not end so."""

    def flush_to_disk(self) -> None:
        """Put all that was noted on disk: called before a checkpoint, which presumes it."""

    def close(self) -> None:
        """Let go of the files."""
