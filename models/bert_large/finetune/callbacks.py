"""Callbacks of the Trainer: training time, log lines, and the end after a signal or a divergence."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from bert_large.distributed.collectives import Ranks
from bert_large.errors import UserError
from bert_large.log import LOGGER
from bert_large.observe.progress import LINE_EVERY_SECONDS
from bert_large.storage.atomic import read_json, write_json
from bert_large.storage.integrity import write_checksums
from bert_large.train.stopping import StopRequest, received_signal

LOWER_RATE = "Run again in an empty folder with a lower --learning-rate"
_TIMING_FILE = "timing.json"


class Timer(TrainerCallback):
    """Sums the time of optimizer steps, without evaluations and checkpoints, over all restarts.

    Rank 0 writes the last file of a checkpoint, and therefore the checksums too.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.seconds = 0.0
        self._ranks = ranks
        self._started = 0.0

    def resume(self, checkpoint: Path) -> None:
        self.seconds = read_json(checkpoint / _TIMING_FILE)["seconds"]

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._started = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seconds += time.perf_counter() - self._started

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._ranks.wait_for_all()  # every rank writes the state of its random numbers
        if not self._ranks.is_main:
            return
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        write_json(folder / _TIMING_FILE, {"seconds": self.seconds})
        write_checksums(folder)


class Log(TrainerCallback):
    """Writes the Trainer's metrics to the log, and ends a run that has diverged.

    Between them it logs the progress every 30 seconds, as a container's health check is the age of its log.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._last_line = time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        logs = logs or {}
        if "train_runtime" in logs:  # the Trainer's summary, which does not include the time before a restart
            return
        if not math.isfinite(logs.get("loss", 0.0)):
            place = f"seed {self._seed}: at step {state.global_step}"
            raise UserError(f"{place} the loss is {logs['loss']}: training diverged. {LOWER_RATE}")
        values = " ".join(f"{name} {value:.4g}" for name, value in logs.items() if isinstance(value, float))
        self._line(state, values)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._line_if_due(state, "training")

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._line_if_due(state, "predicting")

    def _line_if_due(self, state: Any, text: str) -> None:
        if time.monotonic() - self._last_line >= LINE_EVERY_SECONDS:
            self._line(state, text)

    def _line(self, state: Any, text: str) -> None:
        LOGGER.info("seed %d step %d/%d %s", self._seed, state.global_step, state.max_steps, text)
        self._last_line = time.monotonic()


class Stop(TrainerCallback):
    """Ends training with a checkpoint after the step in which a signal arrived, at any rank."""

    def __init__(self, stop: StopRequest, ranks: Ranks) -> None:
        self._stop, self._ranks = stop, ranks

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._stop.defer(math.inf)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if is_stopped(self._stop, self._ranks):
            control.should_save = control.should_training_stop = True


def is_stopped(stop: StopRequest, ranks: Ranks) -> bool:
    """Return, on all ranks, whether one of them got a signal; then all know it. Called by all ranks."""
    stop.signal_number = received_signal(stop, ranks)
    return stop.signal_number > 0
