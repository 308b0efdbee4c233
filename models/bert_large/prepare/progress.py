"""Progress of work that is measured in bytes: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm


class Progress:
    """Counts bytes that are done; messages do not break the bar."""

    def __init__(self, bar: tqdm, *, is_terminal: bool) -> None:
        self._bar = bar
        self.is_terminal = is_terminal

    def add(self, done_bytes: int) -> None:
        """Count bytes as done."""
        self._bar.update(done_bytes)

    def say(self, message: str) -> None:
        """Print a line to the error stream."""
        tqdm.write(message, file=sys.stderr)


@contextmanager
def show_progress(total_bytes: int, what: str) -> Iterator[Progress]:
    """Show a bar of `total_bytes` while the block runs, if the error stream is a terminal."""
    is_terminal = sys.stderr.isatty()
    with tqdm(total=total_bytes, desc=what, unit="B", unit_scale=True, disable=not is_terminal, file=sys.stderr) as bar:
        yield Progress(bar, is_terminal=is_terminal)
