"""Progress of long work: a bar on a terminal, a log line every 30 seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from tqdm import tqdm

from bert_large.log import LOGGER

LINE_EVERY_SECONDS = 30.0
_BAR = "{unit} {n_fmt}/{total_fmt} |{bar}|{postfix}, {remaining} left {desc}"
"""A narrow terminal cuts off the end, so the least important part is last."""


class Progress:
    """Shows how many units of work are done: steps, batches, shards, or bytes (`unit="B"`).

    Without a terminal on standard error, it writes lines through `write` instead of a bar, at most one per 30 seconds.
    """

    def __init__(
        self, total: int, unit: str, *, visible: bool = True, initial: int = 0, description: str = "",
        listener: Callable[[str], None] = lambda text: None, write: Callable[[str], object] | None = None,
    ) -> None:  # fmt: skip
        """Start showing progress, if `visible`: only one rank of a run shows it.

        `write` prints a line, by default to the package's log. `listener` receives each text of `within`, on every rank
        and at once. With a `description`, counting work also writes lines.
        """
        self.on_terminal = visible and sys.stderr.isatty()
        self._visible, self._listener, self._write = visible, listener, write
        self._total, self._unit, self._done, self._description = total, unit, initial, description
        self._bar = tqdm(
            total=total,
            initial=initial,
            unit=unit,
            unit_scale=unit == "B",
            desc=description or None,
            disable=not self.on_terminal,
            dynamic_ncols=True,
            leave=False,
            bar_format=_BAR if total and unit != "B" else None,  # without a total there is no remaining time
        )
        self._last_line = time.monotonic()

    def advance(self, amount: int = 1, status: str = "") -> None:
        """Count work as done; the bar shows `status`, the result of the last unit."""
        self._done += amount
        self._bar.set_postfix_str(status, refresh=False)
        self._bar.update(amount)
        if self._description:
            self._write_if_due(f"{self._description}: {self._done} of {self._total} {self._unit}")

    def within(self, text: str) -> None:
        """Show what happens inside the current unit of work."""
        self._listener(text)
        self._bar.set_description_str(text)
        self._write_if_due(text)

    def line(self, text: str, *, shown_by_bar: bool = False) -> None:
        """Write a line about finished work; the next line from `within` or `advance` waits 30 seconds again.

        On a terminal, a line whose content is `shown_by_bar` goes to the log file only.
        """
        if self._write is not None:
            self._write(text)
        else:
            LOGGER.info(text, extra={"shown_by_bar": shown_by_bar and self.on_terminal})
        self._last_line = time.monotonic()

    def close(self) -> None:
        """Remove the bar."""
        self._bar.close()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _write_if_due(self, text: str) -> None:
        if self._visible and not self.on_terminal and time.monotonic() - self._last_line >= LINE_EVERY_SECONDS:
            self.line(text)
