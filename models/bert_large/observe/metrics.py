"""The metrics of a run: computed once, and written to `metrics.jsonl`."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bert_large.log import LOGGER
from bert_large.storage.atomic import write_atomically

METRICS_FILE = "metrics.jsonl"
_MOST = 2**63 - 1  # steps and samples are 64-bit numbers everywhere


def mean(total: float, count: float) -> float:
    """Return total / count, 0 for a count of 0."""
    return total / count if count else 0.0


def mean_or_none(total: float, count: float) -> float | None:
    """Return total / count, None for a count of 0."""
    return total / count if count else None


def finite_or_none(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values with None in place of NaN and infinity, which JSON cannot represent."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in values.items()
    }


@dataclass(frozen=True, kw_only=True)
class StepMetrics:
    """Metrics of one optimizer step, over all ranks.

    In a step whose update was skipped, the gradient norm or the losses are not finite. Next-sentence metrics are None
    if the model has no next-sentence head.
    """

    step: int
    """Number of steps done, including this one."""
    samples: int
    """Number of sequences trained on so far."""
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
    """Real tokens: batches have no padding."""
    seconds: float
    data_seconds: float
    """Part of `seconds` that the main rank waited for data."""
    skipped_updates: int
    """Number of steps of the run so far, including this one, that made no update."""


@dataclass(frozen=True, kw_only=True)
class EvalMetrics:
    """Metrics of an evaluation, over all ranks: means over the tokens or sequences of the whole set.

    Next-sentence metrics are None if the model has no next-sentence head.
    """

    samples: int
    masked_lm_loss: float
    masked_lm_accuracy: float
    next_sentence_loss: float | None
    next_sentence_accuracy: float | None
    most_frequent_token_accuracy: float
    """Accuracy of always predicting the set's most frequent masked token: the baseline a model must beat."""
    seconds: float


_COLUMNS: dict[str, dict[str, Any]] = {
    "step": {field.name: field.type for field in dataclasses.fields(StepMetrics)},
    "eval": {
        "step": "int",
        "eval_samples": "int",
        **{field.name: field.type for field in dataclasses.fields(EvalMetrics)},
    },
}
"""Names and types of the values in each event's row of `metrics.jsonl`."""


def keep_rows(path: Path, is_kept: Callable[[int, bool], bool]) -> list[int]:
    """Delete the rows for which `is_kept(step, is_evaluation)` is false, and a last row that was cut short.

    Logs a warning about damaged rows before the last one, which a kill does not cause. Returns the steps that have
    a row.
    """
    if not path.exists():
        return []
    lines = _read_lines(path)
    rows = [_parse_row(line) for line in lines]
    if damaged := rows[:-1].count(None):
        LOGGER.warning("warning: %s is damaged: %d of its %d rows are deleted", path, damaged, len(rows))
    kept = [
        (line, row)
        for line, row in zip(lines, rows, strict=True)
        if row is not None and is_kept(row["step"], row["event"] == "eval")
    ]
    if len(kept) < len(lines):
        with write_atomically(path) as file:
            file.write("".join(line for line, _ in kept).encode())
    return [row["step"] for _, row in kept if row["event"] == "step"]


def count_missing(steps: Sequence[int], last: int) -> int:
    """Return how many steps up to `last` have no row, from the first that has one: a run may start at a later step."""
    return last + 1 - min(steps, default=1) - len(set(steps))


def read_rows(path: Path, event: str) -> list[dict[str, Any]]:
    """Return the rows of one event ("step" or "eval") of a `metrics.jsonl`, to which a run may still be appending."""
    rows = map(_parse_row, _read_lines(path))
    return [row for row in rows if row is not None and row["event"] == event]


def _read_lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)


def _parse_row(line: str) -> dict[str, Any] | None:
    """Return a row, or None if it is incomplete: being written, or cut short by a kill, a full disk or a power cut."""
    try:
        row = json.loads(line) if line.endswith("\n") else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or row.get("event") not in tuple(_COLUMNS):
        return None
    columns = _COLUMNS[row["event"]]
    is_whole = all(name in row and _fits(row[name], kind) for name, kind in columns.items())
    return row if is_whole else None


def _fits(value: Any, kind: str) -> bool:
    """Return whether a column of this type can hold the value; null stands for a number that is not finite."""
    if kind == "int":
        return type(value) is int and 0 <= value <= _MOST
    return value is None or type(value) in (int, float)


def read_steps(path: Path) -> list[StepMetrics]:
    """Return the metrics of all steps in a `metrics.jsonl`, with NaN in place of null."""
    steps = []
    for row in read_rows(path, "step"):
        values: dict[str, Any] = {name: math.nan if row[name] is None else row[name] for name in _COLUMNS["step"]}
        steps.append(StepMetrics(**values))
    return steps
