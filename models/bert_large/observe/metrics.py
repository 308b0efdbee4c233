"""The figures of a run, each computed once, and where they are written as data."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bert_large.observe.tensorboard import EventFile, keep_events
from bert_large.storage.atomic import GrowingFile, write_atomically

# Keeps the weighted mean finite without masked tokens; the reference's constant.
MASKED_LM_EPSILON = 1e-5
_MOST = 2**63 - 1  # steps and samples are 64-bit numbers everywhere
_LOGGER = logging.getLogger(__name__)


def masked_lm_loss(loss_sum: float, masked_tokens: float) -> float:
    """Return the reference's training loss: the sum of cross-entropies over (their number + 1e-5)."""
    return loss_sum / (masked_tokens + MASKED_LM_EPSILON)


def mean(total: float, count: float) -> float:
    """Return total / count, 0 for a count of 0."""
    return total / count if count else 0.0


def mean_or_none(total: float, count: float) -> float | None:
    """Return total / count, None for a count of 0: of what is not there, there is no figure."""
    return total / count if count else None


@dataclass(frozen=True, kw_only=True)
class StepFigures:
    """What one optimizer step gave, over all ranks.

    Where the update was skipped, the gradient's norm is not finite, or the losses are not. Figures of next sentences
    are None where the model does not predict them.
    """

    step: int
    """Steps done, this one included."""
    samples: int
    """Sequences trained on so far."""
    loss: float
    masked_lm_loss: float
    next_sentence_loss: float | None
    masked_lm_accuracy: float
    next_sentence_accuracy: float | None
    learning_rate: float
    gradient_norm: float
    """Global norm before clipping."""
    sequences_per_second: float
    tokens_per_second: float
    """Real tokens; there are no others."""
    seconds: float
    data_seconds: float
    """Part of `seconds` that the main rank waited for data."""
    skipped_updates: int
    """Steps of the run so far, this one included, that made no update."""


@dataclass(frozen=True, kw_only=True)
class EvalFigures:
    """What an evaluation gave, over all ranks; means over the tokens or sequences of the whole set.

    Figures of next sentences are None where the model does not predict them.
    """

    samples: int
    masked_lm_loss: float
    masked_lm_accuracy: float
    next_sentence_loss: float | None
    next_sentence_accuracy: float | None
    most_frequent_token_accuracy: float
    """Accuracy of always predicting the set's most frequent masked token: what a model must beat."""
    seconds: float


_COLUMNS: dict[str, dict[str, Any]] = {
    "step": {field.name: field.type for field in dataclasses.fields(StepFigures)},
    "eval": {
        "step": "int",
        "eval_samples": "int",
        **{field.name: field.type for field in dataclasses.fields(EvalFigures)},
    },
}
"""Figures of each event's row in `metrics.jsonl`, and their types."""


class MetricsWriter:
    """An `Observer`: appends figures to `metrics.jsonl` and TensorBoard.

    Rows after `first_step`, left by a run that was killed, are dropped; so is an evaluation after that step when it is
    to be made anew. Figures that are not finite, or not there, are null and left out of TensorBoard.
    """

    def __init__(self, output_dir: Path, first_step: int, evaluation_due: bool = False) -> None:
        def is_kept(step: int, is_evaluation: bool) -> bool:
            if first_step == 0 or step > first_step:
                return False
            return step < first_step or not (is_evaluation and evaluation_due)

        path, folder = output_dir / "metrics.jsonl", output_dir / "tensorboard"
        steps = _keep_rows(path, is_kept)
        has_events = keep_events(folder, lambda step, tag: is_kept(step, tag.startswith("eval/")))
        if (steps or has_events) and (missing := _count_missing(steps, first_step)):
            _LOGGER.warning("warning: %s lacks the figures of %d of the steps up to %d", path, missing, first_step)
        self._file = GrowingFile(path)
        self._tensorboard = EventFile(folder, first_step + 1)

    def step_starts(self, samples: int) -> None:
        """Write nothing: there are no figures yet."""

    def step(self, figures: StepFigures) -> None:
        """Write one step's figures."""
        self._write("step", "train", figures.step, dataclasses.asdict(figures))

    def evaluation_starts(self, samples: int) -> None:
        """Write nothing: there are no figures yet."""

    def evaluation(self, step: int, trained_samples: int, figures: EvalFigures) -> None:
        """Write an evaluation's figures, after `step` steps on `trained_samples` sequences."""
        values = dataclasses.asdict(figures)
        values["eval_samples"] = values.pop("samples")
        self._write("eval", "eval", step, {"step": step, "samples": trained_samples, **values})

    def run_ends(self, samples: int, reached_target: bool) -> None:
        """Write nothing: the last rows say it."""

    def close(self) -> None:
        """Close both."""
        self._file.close()
        self._tensorboard.close()

    def flush_to_disk(self) -> None:
        """Put all rows on disk: called before a checkpoint, whose step the rows must reach."""
        self._file.flush_to_disk()
        self._tensorboard.flush_to_disk()

    def _write(self, event: str, group: str, step: int, values: dict[str, Any]) -> None:
        finite = {name: value for name, value in values.items() if value is not None and math.isfinite(value)}
        row = json.dumps({"event": event, **dict.fromkeys(values), **finite}, allow_nan=False)
        self._file.append(f"{row}\n".encode())
        self._tensorboard.scalars(step, {f"{group}/{name}": value for name, value in finite.items() if name != "step"})


def _keep_rows(path: Path, is_kept: Callable[[int, bool], bool]) -> list[int]:
    """Drop the rows of which `is_kept(step, is_evaluation)` is false, and what a kill or a full disk cut short.

    Of damaged rows before the last one it warns: no kill leaves them. Returns the steps whose figures are there.
    """
    if not path.exists():
        return []
    lines = _read_lines(path)
    rows = [_parse_row(line) for line in lines]
    if damaged := rows[:-1].count(None):
        _LOGGER.warning("warning: %s is damaged: %d of its %d rows are dropped", path, damaged, len(rows))
    kept = [
        (line, row)
        for line, row in zip(lines, rows, strict=True)
        if row is not None and is_kept(row["step"], row["event"] == "eval")
    ]
    if len(kept) < len(lines):
        with write_atomically(path) as file:
            file.write("".join(line for line, _ in kept).encode())
    return [row["step"] for _, row in kept if row["event"] == "step"]


def _count_missing(steps: Sequence[int], last: int) -> int:
    """Return how many steps lack figures up to step `last`, from the first that has some: a run may begin later."""
    return last + 1 - min(steps, default=1) - len(set(steps))


def read_rows(path: Path, event: str) -> list[dict[str, Any]]:
    """Return the rows of one event ("step" or "eval") of a `metrics.jsonl`, which a run may be writing to."""
    rows = map(_parse_row, _read_lines(path))
    return [row for row in rows if row is not None and row["event"] == event]


def _read_lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)


def _parse_row(line: str) -> dict[str, Any] | None:
    """Return the row; None for what a kill, a full disk or a power cut left of one, or one that is being written."""
    try:
        row = json.loads(line) if line.endswith("\n") else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or row.get("event") not in tuple(_COLUMNS):
        return None
    columns = _COLUMNS[row["event"]]
    is_whole = all(name in row and _is_figure(row[name], kind) for name, kind in columns.items())
    return row if is_whole else None


def _is_figure(value: Any, kind: str) -> bool:
    """Tell whether a column of this type can hold a value; null is a figure that was not finite."""
    if kind == "int":
        return type(value) is int and 0 <= value <= _MOST
    return value is None or type(value) in (int, float)


def read_steps(path: Path) -> list[StepFigures]:
    """Return the figures of all steps in a `metrics.jsonl`; null is not a number."""
    steps = []
    for row in read_rows(path, "step"):
        figures: dict[str, Any] = {name: math.nan if row[name] is None else row[name] for name in _COLUMNS["step"]}
        steps.append(StepFigures(**figures))
    return steps
