"""The time that a run has trained, by which a run of hours sets its learning rate and ends."""

from __future__ import annotations

import time

from bert_large.distributed.collectives import Ranks


class TrainingClock:
    """Counts the time of the training loop over all processes of a run: steps, evaluations and checkpoints.

    A run that resumes continues from the time of its checkpoint. The time between its processes, and the time of steps
    after that checkpoint, which are trained again, do not count. All ranks use the main rank's time, read by `update`.
    """

    def __init__(self, max_hours: float | None, seconds: float = 0.0) -> None:
        """`seconds` is the time trained by earlier processes. Without `max_hours`, no time is counted."""
        self.max_hours, self.seconds = max_hours, seconds
        self._started = time.monotonic()
        self._before = seconds

    def start(self) -> None:
        """Start counting."""
        self._started = time.monotonic()

    def update(self, ranks: Ranks) -> None:
        """Set `seconds` to the present time; all ranks must call this together."""
        if self.max_hours is not None:
            self.seconds = ranks.broadcast(self._before + time.monotonic() - self._started)

    def share(self) -> float:
        """Return the share of `max_hours` that was used at the last update, at most 1."""
        assert self.max_hours is not None
        return min(1.0, self.seconds / (3600 * self.max_hours))
