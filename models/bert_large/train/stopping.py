"""Stopping on request: a signal ends the run after the step in hand, or without it when that would take too long."""

from __future__ import annotations

import os
import signal
import time
from types import FrameType

# A scheduler may signal every process of a job, and torchrun hands the same signal on: that is one request.
_SAME_REQUEST_SECONDS = 3.0


class WorkDropped(Exception):
    """The step or evaluation in hand is given up, on all ranks alike; the weights are those before it."""


class StopRequest:
    """Listens to SIGTERM and SIGINT, also as process 1 of a container, where a signal without a handler does nothing.

    Until `defer` is called a signal ends the process: nothing is trained yet that could be lost. Then the first one is
    remembered, and a second one ends the process.
    """

    def __init__(self) -> None:
        self.signal_number = 0
        """The signal that came, 0 as long as none has."""
        self._deadline_seconds = 0.0
        self._signalled_at = 0.0
        self._is_deferring = False

    def listen(self) -> None:
        """Start listening."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    def defer(self, deadline_seconds: float) -> None:
        """From now on remember the first signal: who trains asks for it. A step has this long to end after it."""
        self._is_deferring, self._deadline_seconds = True, deadline_seconds

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._is_deferring and not self.signal_number:
            self.signal_number, self._signalled_at = number, now
        elif not self._is_deferring or now - self._signalled_at > _SAME_REQUEST_SECONDS:
            os._exit(128 + number)

    def drops_step(self, elapsed_seconds: float, done: float) -> bool:
        """Tell if a stop is asked for and a step, `done` of it (0 to 1) after `elapsed_seconds`, would end too late."""
        if not self.signal_number:
            return False
        left_seconds = self._signalled_at + self._deadline_seconds - time.monotonic()
        return left_seconds <= 0 or (done > 0 and elapsed_seconds / done * (1 - done) > left_seconds)
