"""Stopping on request: a signal ends the run after the current step, or discards the step if it would take too long."""

from __future__ import annotations

import os
import signal
import time
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # it imports torch, which `--help` does not need
    from bert_large.distributed.collectives import Ranks

# A scheduler may signal every process of a job while torchrun forwards the same signal: both are one request.
_SAME_REQUEST_SECONDS = 3.0


def received_signal(stop: StopRequest, ranks: Ranks) -> int:
    """Return the number of a signal that a rank has received, 0 if none has: the same on all ranks, so that they stop
    together. Called by all of them.
    """
    return max(ranks.gather(stop.signal_number)) if ranks.any(stop.signal_number > 0) else 0


class WorkDropped(Exception):
    """The current step or evaluation is discarded, on all ranks; the weights are those before it."""


class StopRequest:
    """Handles SIGTERM, SIGINT and SIGHUP, also as process 1 of a container, which ignores unhandled signals.

    Until `defer` is called, a signal terminates the process at once: there is no training progress to lose. After that,
    the first signal is recorded, and a second one terminates the process.
    """

    def __init__(self) -> None:
        self.signal_number = 0
        """The recorded signal, 0 if there is none."""
        self._deadline_seconds = 0.0
        self._signalled_at = 0.0
        self._is_deferring = False

    def listen(self) -> None:
        """Install the signal handlers. SIGHUP stays ignored if it was: that is how `nohup` starts a process."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._handle)

    def defer(self, deadline_seconds: float) -> None:
        """Record the first signal from now on, for the training loop to poll. A step then has this long to finish."""
        self._is_deferring, self._deadline_seconds = True, deadline_seconds

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._is_deferring and not self.signal_number:
            self.signal_number, self._signalled_at = number, now
        elif not self._is_deferring or now - self._signalled_at > _SAME_REQUEST_SECONDS:
            os._exit(128 + number)

    def drops_step(self, elapsed_seconds: float, done: float) -> bool:
        """Return whether a stop is requested and a step would miss its deadline.

        `done` is the finished share of the step, from 0 to 1, after `elapsed_seconds`.
        """
        if not self.signal_number:
            return False
        left_seconds = self._signalled_at + self._deadline_seconds - time.monotonic()
        return left_seconds <= 0 or (done > 0 and elapsed_seconds / done * (1 - done) > left_seconds)
