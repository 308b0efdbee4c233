"""Writes a run's metrics to `metrics.jsonl` and TensorBoard."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from bert_large.log import LOGGER
from bert_large.observe.metrics import METRICS_FILE, EvalMetrics, StepMetrics, count_missing, finite_or_none, keep_rows
from bert_large.observe.observer import Observer
from bert_large.observe.tensorboard import EventFile, keep_events
from bert_large.storage.atomic import GrowingFile


class MetricsWriter(Observer):
    """Appends each step's and evaluation's metrics to `metrics.jsonl` and TensorBoard.

    Rows after `first_step`, left by a killed process, are deleted first, and so is an evaluation after `first_step` if
    it is to be repeated. Metrics that are None or not finite are null in the file and left out of TensorBoard.
    """

    def __init__(self, output_dir: Path, first_step: int, evaluation_due: bool = False) -> None:
        def is_kept(step: int, is_evaluation: bool) -> bool:
            if first_step == 0 or step > first_step:
                return False
            return step < first_step or not (is_evaluation and evaluation_due)

        path, folder = output_dir / METRICS_FILE, output_dir / "tensorboard"
        steps = keep_rows(path, is_kept)
        has_events = keep_events(folder, lambda step, tag: is_kept(step, tag.startswith("eval/")))
        if (steps or has_events) and (missing := count_missing(steps, first_step)):
            LOGGER.warning("warning: %s lacks the metrics of %d of the steps up to %d", path, missing, first_step)
        self._file = GrowingFile(path)
        self._tensorboard = EventFile(folder, first_step + 1)

    def step(self, metrics: StepMetrics) -> None:
        """Write one step's metrics."""
        self._write("step", "train", metrics.step, dataclasses.asdict(metrics))

    def evaluation(self, step: int, samples: int, metrics: EvalMetrics) -> None:
        """Write an evaluation's metrics."""
        values = dataclasses.asdict(metrics)
        values["eval_samples"] = values.pop("samples")
        self._write("eval", "eval", step, {"step": step, "samples": samples, **values})

    def close(self) -> None:
        """Close both files."""
        self._file.close()
        self._tensorboard.close()

    def flush_to_disk(self) -> None:
        """Flush all rows and events to disk."""
        self._file.flush_to_disk()
        self._tensorboard.flush_to_disk()

    def _write(self, event: str, group: str, step: int, values: dict[str, Any]) -> None:
        values = finite_or_none(values)
        self._file.append(f"{json.dumps({'event': event, **values}, allow_nan=False)}\n".encode())
        scalars = {f"{group}/{name}": value for name, value in values.items() if name != "step" and value is not None}
        self._tensorboard.scalars(step, scalars)
