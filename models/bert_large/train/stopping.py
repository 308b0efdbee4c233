"""Stopping on request: a signal is remembered, and the loop ends after the step in hand."""

from __future__ import annotations

import signal
from types import FrameType


class StopRequest:
    """Remembers SIGTERM or SIGINT. A second one ends the process at once, as without us."""

    def __init__(self) -> None:
        self.signal_number = 0

    def install(self) -> None:
        """Start listening."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._remember)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.signal_number = number
        for listened in (signal.SIGTERM, signal.SIGINT):
            signal.signal(listened, signal.SIG_DFL)
