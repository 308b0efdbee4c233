"""Saving checkpoints during a run."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bert_large.distributed.collectives import Ranks
from bert_large.log import LOGGER
from bert_large.observe.observer import Observer
from bert_large.train import checkpoint
from bert_large.train.state import TrainingState
from bert_large.train.step import StepRunner

# A warning is logged if saving takes more than this share of the time: training waits meanwhile.
_MAX_SAVING_SHARE = 0.05


class CheckpointSaver:
    """Writes a run's checkpoints into a folder, each step at most once, and deletes all but the newest `keep`."""

    def __init__(
        self, folder: Path, *, keep: int, runner: StepRunner, ranks: Ranks, identity: Mapping[str, Any], start_step: int
    ) -> None:
        """Create a saver for a run that starts after `start_step`, whose checkpoint exists if it is not 0."""
        self._folder, self._keep, self._identity = folder, keep, identity
        self._runner, self._ranks = runner, ranks
        self._start_step = self.saved_step = start_step
        self._saved_at = time.monotonic()

    def save(self, state: TrainingState, observers: Sequence[Observer]) -> None:
        """Write a checkpoint, unless this step has one. All ranks must call it.

        The observers' files are flushed first, so that none of the rows up to the checkpoint's step can be lost.
        """
        if state.step <= self.saved_step:
            return
        started = time.monotonic()
        with self._ranks.failing_together():
            if self._ranks.is_main:
                for observer in observers:
                    observer.flush_to_disk()
                saved = checkpoint.save_checkpoint(
                    self._folder, self._runner.model, self._runner.optimizer, state, self._identity, self._runner.shards
                )
                checkpoint.remove_old_checkpoints(self._folder, self._keep)
                self._log_saved(saved, time.monotonic() - started, started - self._saved_at)
            elif self._runner.shards is not None:
                checkpoint.send_moments(self._runner.model, self._runner.optimizer, self._runner.shards)
        self.saved_step, self._saved_at = state.step, time.monotonic()

    def _log_saved(self, saved: Path, seconds: float, since_last_seconds: float) -> None:
        share = seconds / (seconds + since_last_seconds)
        LOGGER.info("checkpoint %s: %.1f s, %.1f%% of the time since the last", saved, seconds, 100 * share)
        # Not for the first checkpoint of a process, which may come right after its start.
        if share > _MAX_SAVING_SHARE and self.saved_step > self._start_step and seconds > 1:
            LOGGER.warning("warning: saving takes %.0f%% of the time; a higher --save-every reduces that", 100 * share)
