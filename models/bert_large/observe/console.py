"""What a person sees: a progress bar on a terminal, plain lines elsewhere, and all lines in the log file."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from tqdm import tqdm

from bert_large.log import LOGGER
from bert_large.observe.metrics import EvalFigures, StepFigures

LINE_EVERY_SECONDS = 30.0
_BAR = "{unit} {n_fmt}/{total_fmt} |{bar}|{postfix}, {remaining} left {desc}"
"""What is cut off where the terminal is narrow comes last."""


def step_line(figures: StepFigures, max_steps: int) -> str:
    """Return the log line of a step; the field names are those that users' scripts look for."""
    next_loss = _if_any(" next_sentence {:.4f}", figures.next_sentence_loss)
    return (
        f"step {figures.step}/{max_steps} loss {figures.loss:.4f} "
        f"(masked_lm {figures.masked_lm_loss:.4f}{next_loss}) "
        f"lm_acc {figures.masked_lm_accuracy:.4f}{_if_any(' seq_acc {:.4f}', figures.next_sentence_accuracy)} "
        f"lr {figures.learning_rate:.3e} grad_norm {figures.gradient_norm:.3f} "
        f"{figures.sequences_per_second:.2f} sentence/s {figures.tokens_per_second:.0f} token/s "
        f"{figures.seconds:.2f} s (data {figures.data_seconds:.2f} s)"
    )


def step_status(figures: StepFigures) -> str:
    """Return what a progress bar says of the last step."""
    return (
        f"loss {figures.loss:.3f}, accuracy {figures.masked_lm_accuracy:.3f}, "
        f"{figures.sequences_per_second:.1f} sequences/s"
    )


def eval_line(figures: EvalFigures) -> str:
    """Return the log line of an evaluation."""
    return (
        f"masked_lm_accuracy {figures.masked_lm_accuracy:.5f} "
        f"(always the most frequent token: {figures.most_frequent_token_accuracy:.5f}) "
        f"masked_lm_loss {figures.masked_lm_loss:.4f}"
        f"{_if_any(' next_sentence_accuracy {:.4f}', figures.next_sentence_accuracy)}"
        f"{_if_any(' next_sentence_loss {:.4f}', figures.next_sentence_loss)} "
        f"on {figures.samples} samples, {figures.seconds:.1f} s"
    )


def _if_any(form: str, figure: float | None) -> str:
    """Return a figure in a form, nothing where there is none."""
    return "" if figure is None else form.format(figure)


class Progress:
    """How far a long piece of work is: a bar on a terminal, else a line every 30 seconds; `visible` on one rank.

    `listener` is told on every rank, at once, what is going on.
    """

    def __init__(
        self,
        total: int,
        unit: str,
        *,
        visible: bool,
        initial: int = 0,
        listener: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._listener = listener
        self._on_terminal = visible and sys.stderr.isatty()
        self._visible = visible
        self._bar = tqdm(
            total=total,
            initial=initial,
            unit=unit,
            disable=not self._on_terminal,
            dynamic_ncols=True,
            leave=False,
            bar_format=_BAR if total else None,  # without a total there is no time left either
        )
        self._last_line = time.monotonic()

    def advance(self, amount: int = 1, status: str = "") -> None:
        """Count work as done; the bar shows `status`, what it gave."""
        self._bar.set_postfix_str(status, refresh=False)
        self._bar.update(amount)

    def within(self, text: str) -> None:
        """Tell what is going on inside the current unit of work."""
        self._listener(text)
        self._bar.set_description_str(text)
        now = time.monotonic()
        if self._visible and not self._on_terminal and now - self._last_line >= LINE_EVERY_SECONDS:
            LOGGER.info(text)
            self._last_line = now

    def line(self, text: str, *, of_a_step: bool = False) -> None:
        """Log a line about finished work; restarts the wait for the next line from within.

        On a terminal the bar shows the last step, and the line of a step goes to the log file alone.
        """
        LOGGER.info(text, extra={"shown_by_bar": of_a_step and self._on_terminal})
        self._last_line = time.monotonic()

    def close(self) -> None:
        """Take the bar away."""
        self._bar.close()
