"""The figures of a run, each computed once, and where they are written as data."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter

# Keeps the weighted mean finite without masked tokens; the reference's constant.
MASKED_LM_EPSILON = 1e-5


def masked_lm_loss(loss_sum: float, masked_tokens: float) -> float:
    """Return the reference's training loss: the sum of cross-entropies over (their number + 1e-5)."""
    return loss_sum / (masked_tokens + MASKED_LM_EPSILON)


def mean(total: float, count: float) -> float:
    """Return total / count, 0 for a count of 0."""
    return total / count if count else 0.0


@dataclass(frozen=True, kw_only=True)
class StepFigures:
    """What one optimizer step gave, over all ranks.

    Where the update was skipped, the gradient's norm is not finite, or the losses are not.
    """

    step: int
    """Steps done, this one included."""
    samples: int
    """Sequences trained on so far."""
    loss: float
    masked_lm_loss: float
    next_sentence_loss: float
    masked_lm_accuracy: float
    next_sentence_accuracy: float
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
    """What an evaluation gave, over all ranks; means over the tokens or sequences of the whole set."""

    samples: int
    masked_lm_loss: float
    masked_lm_accuracy: float
    next_sentence_loss: float
    next_sentence_accuracy: float
    most_frequent_token_accuracy: float
    """Accuracy of always predicting the set's most frequent masked token: what a model must beat."""
    seconds: float


class MetricsWriter:
    """An `Observer`: appends figures to `metrics.jsonl` and TensorBoard.

    Rows after `first_step`, left by a run that was killed, are dropped. Figures that are not finite are null, which
    JSON has a word for, and left out of TensorBoard.
    """

    def __init__(self, output_dir: Path, first_step: int) -> None:
        self._path = output_dir / "metrics.jsonl"
        _keep_rows_up_to(self._path, first_step)
        self._file = self._path.open("a", encoding="utf-8")
        self._tensorboard = SummaryWriter(str(output_dir / "tensorboard"), purge_step=first_step + 1)

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
        """Flush both."""
        self._file.close()
        self._tensorboard.close()

    def flush_to_disk(self) -> None:
        """Put all rows on disk: called before a checkpoint, whose step the rows must reach."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._tensorboard.flush()

    def _write(self, event: str, group: str, step: int, values: dict[str, Any]) -> None:
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        self._file.write(json.dumps({"event": event, **dict.fromkeys(values), **finite}, allow_nan=False) + "\n")
        self._file.flush()
        for name, value in finite.items():
            if name != "step":
                self._tensorboard.add_scalar(f"{group}/{name}", value, step)


def _keep_rows_up_to(path: Path, step: int) -> None:
    """Drop rows after `step`, and a last row cut short by a kill; all rows when nothing is kept of the run."""
    if step == 0:
        path.unlink(missing_ok=True)
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if not line.endswith("\n") or json.loads(line)["step"] > step:
            break
        kept.append(line)
    partial = path.with_suffix(".partial")
    partial.write_text("".join(kept), encoding="utf-8")
    partial.replace(path)


def read_rows(path: Path, event: str) -> list[dict[str, Any]]:
    """Return the rows of one event ("step" or "eval") of a `metrics.jsonl`."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [row for row in rows if row["event"] == event]
