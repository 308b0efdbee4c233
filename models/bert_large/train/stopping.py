"""Stopping on request: a signal is remembered, and the loop ends after the step in hand."""

from __future__ import annotations

import os
import signal
import time
from types import FrameType

ONE_REQUEST_SECONDS = 2.0
"""Signals this soon after the first are the same request: schedulers and terminals signal a whole process group, and
launchers in it pass on what they got."""


class StopRequest:
    """Remembers SIGTERM or SIGINT. One that comes later than the same request's ends the process, as without us."""

    def __init__(self) -> None:
        self.signal_number = 0
        self._asked_at = 0.0

    def install(self) -> None:
        """Start listening."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._remember)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self.signal_number:
            self.signal_number, self._asked_at = number, now
        elif now - self._asked_at > ONE_REQUEST_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
