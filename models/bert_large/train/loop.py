"""The training loop: step, tell, evaluate, save, until it is time to stop."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from bert_large.config.training import TrainConfig
from bert_large.data.batch import RaggedBatch
from bert_large.distributed.collectives import Ranks
from bert_large.errors import UserError
from bert_large.log import LOGGER
from bert_large.observe.console import eval_line, step_line, step_status
from bert_large.observe.metrics import EvalFigures, StepFigures
from bert_large.observe.observer import Observer
from bert_large.observe.progress import Progress
from bert_large.observe.results import StepTotals
from bert_large.storage.atomic import write_atomically
from bert_large.train import checkpoint
from bert_large.train.bad_steps import TREND_STEPS, LossTrend
from bert_large.train.settings import BENCHMARK_WARMUP_STEPS
from bert_large.train.step import NonFiniteLossError, StepRunner
from bert_large.train.stopping import StopRequest, WorkDropped

# Saving more often than this is worth a word: training waits meanwhile.
_MAX_SAVING_SHARE = 0.05

BAD_BATCH_FILE = "bad_batch.json"


class DivergedError(UserError):
    """The loss rose further above its lowest value than `--detect-divergence` allows."""


@dataclass(kw_only=True)
class TrainingLoop:
    """Everything a run needs, made once; `run` does the rest."""

    config: TrainConfig
    runner: StepRunner
    ranks: Ranks
    batches: Iterator[list[RaggedBatch]]
    evaluate: Callable[[], EvalFigures] | None
    observers: Sequence[Observer]
    """Told of the run's course; on other ranks than the main one there is a profiler at most."""
    identity: Mapping[str, Any]
    describe_samples: Callable[[int], list[dict[str, Any]]]
    """Where each sample of a step (from 0) lies."""
    note_bad_records: Callable[[], None] = lambda: None
    """Called on all ranks when a step's data are there, to count what was passed over for them."""
    stop_request: StopRequest
    start_step: int
    evaluate_first: bool = False
    """Evaluate before the first step: asked for, or left undone when the run was interrupted."""
    loss_trend: LossTrend = field(default_factory=LossTrend)
    """Of the steps so far that made an update."""
    start_accuracy: float | None = None
    """Masked-LM accuracy of the evaluation after `start_step`, if it is made already."""
    totals: StepTotals = field(default_factory=lambda: StepTotals(warmup_steps=BENCHMARK_WARMUP_STEPS))
    """Of the steps made here."""
    accuracy: float | None = field(init=False)
    """Masked-LM accuracy of the evaluation after the last step; None: there was none."""
    reached_target: bool = False
    stop_signal: int = 0
    """The signal that ended the loop, 0 if none did."""

    def __post_init__(self) -> None:
        self.accuracy = self.start_accuracy
        self._saved_step = self.start_step
        self._saved_at = time.monotonic()

    def run(self) -> str:
        """Train until the end and return why it ended."""
        progress = Progress(
            self.config.max_steps,
            "step",
            visible=self.ranks.is_main,
            initial=self.start_step,
            listener=self.ranks.note,
        )
        try:
            done = self.start_step
            evaluation_due = self.evaluate is not None and self.evaluate_first
            while True:
                # There is a reason at the start if the run ended here, but was killed before it left its results.
                interrupted = self._is_interrupted()
                if evaluation_due and not interrupted:
                    evaluation_due = not self._evaluate(done, progress)
                    interrupted = evaluation_due and self._is_interrupted()
                reason = self._reason_to_stop(done)
                if reason and not interrupted:
                    self._tell_end(done)
                if self._is_time_to_save(done, ends=reason is not None or interrupted):
                    self._save(done, evaluation_due, progress)
                if interrupted:
                    return f"stopped by signal {self.stop_signal} after step {done}"
                if reason:
                    return reason
                if self._train_step(done, progress):
                    done += 1
                    self.accuracy = None
                    evaluation_due = self.evaluate is not None and self._is_time_to_evaluate(done)
        finally:
            progress.close()

    def _train_step(self, step: int, progress: Progress) -> bool:
        """Train step `step` (from 0); return False if it was dropped, as all ranks are asked to stop."""
        for observer in self.observers:
            observer.step_starts(step * self.config.global_batch_size)
        started = time.perf_counter()
        progress.within(f"step {step + 1}: waiting for data")
        micro_batches = next(self.batches)
        self.note_bad_records()
        data_seconds = time.perf_counter() - started
        sequences = sum(batch.sequences for batch in micro_batches)
        try:
            figures = self.runner.run(
                step,
                micro_batches,
                data_seconds,
                lambda done: progress.within(f"step {step + 1}: {done}/{sequences} sequences"),
            )
        except NonFiniteLossError as error:
            raise NonFiniteLossError(f"{error}. {self._leave_bad_batches(step, str(error))}") from None
        except WorkDropped:
            progress.line(f"step {step + 1} would not end within --stop-deadline: dropped, a resumed run makes it anew")
            return False
        self.totals.add(figures)
        for observer in self.observers:
            observer.step(figures)
        progress.advance(status=step_status(figures))
        progress.line(step_line(figures, self.config.max_steps), shown_by_bar=True)
        self._watch_loss(figures)
        return True

    def _leave_bad_batches(self, last_step: int, reason: str) -> str:
        """Write which records the steps without an update had, up to `last_step` (from 0), and tell where."""
        path = self.config.output_dir / BAD_BATCH_FILE
        if self.ranks.is_main:
            steps = range(last_step + 1 - self.runner.skipped.in_a_row, last_step + 1)
            batches = [{"step": step + 1, "samples": self.describe_samples(step)} for step in steps]
            with write_atomically(path) as file:
                file.write(json.dumps({"reason": reason, "batches": batches}, indent=1).encode())
        return (
            f"{path} lists their records; the same command goes through them again from the last checkpoint. A run in "
            "an empty OUTPUT_DIR with a lower --learning-rate or longer warmup may avoid them"
        )

    def _watch_loss(self, figures: StepFigures) -> None:
        """Follow the loss of steps that made an update; all ranks see the same figures, so all stop together."""
        limit = self.config.detect_divergence
        if self.runner.skipped.in_a_row == 0:
            self.loss_trend = self.loss_trend.after(figures.masked_lm_loss)
        if limit is not None and self.loss_trend.rise > limit:
            raise DivergedError(
                f"step {figures.step}: the mean masked-LM loss of about {TREND_STEPS} steps is "
                f"{self.loss_trend.mean:.4f}, {self.loss_trend.rise:.4f} above its lowest; "
                f"--detect-divergence allows {limit:g}. Train with a lower --learning-rate or longer warmup in an "
                "empty OUTPUT_DIR, or go on with the same command without --detect-divergence"
            )

    def _reason_to_stop(self, done: int) -> str | None:
        """Return why `done` steps are enough, or None if they are not."""
        samples, target = done * self.config.global_batch_size, self.config.target_accuracy
        if target is not None and self.accuracy is not None and self.accuracy >= target:
            self.reached_target = True
            return f"masked_lm_accuracy {self.accuracy:.5f} reaches the target {target}"
        if done >= self.config.max_steps:
            return f"all {done} steps done"
        if self.config.max_samples is not None and samples >= self.config.max_samples:
            return f"{samples} samples reach --max-samples {self.config.max_samples}"
        return None

    def _is_interrupted(self) -> bool:
        """Tell whether any rank was asked to stop; all ranks agree, so all stop together."""
        number = self.stop_request.signal_number
        asked = self.ranks.sum(torch.tensor([float(number), float(number > 0)], dtype=torch.float64)).tolist()
        if asked[1]:
            self.stop_signal = round(asked[0] / asked[1])
        return asked[1] > 0

    def _is_time_to_evaluate(self, done: int) -> bool:
        """Evaluate at the first step that reaches each multiple of the interval, and at the end of longer runs.

        A run that ends before its first interval is a trial: evaluating a large model can take longer than all of it.
        """
        interval, batch = self.config.eval_every_samples, self.config.global_batch_size
        samples = done * batch
        ends = self._reason_to_stop(done) is not None
        return samples // interval > (samples - batch) // interval or (ends and samples > interval)

    def _evaluate(self, done: int, progress: Progress) -> bool:
        """Evaluate after `done` steps; return False if that was dropped, as all ranks are asked to stop."""
        assert self.evaluate is not None
        samples = done * self.config.global_batch_size
        for observer in self.observers:
            observer.evaluation_starts(samples)
        try:
            figures = self.evaluate()
        except WorkDropped:
            progress.line(f"the evaluation after step {done} is dropped, a resumed run makes it anew")
            return False
        self.accuracy = figures.masked_lm_accuracy
        progress.line(f"eval after step {done}: {eval_line(figures)}")
        for observer in self.observers:
            observer.evaluation(done, samples, figures)
        return True

    def _is_time_to_save(self, done: int, *, ends: bool) -> bool:
        """Save every so many steps and when the loop ends, but nothing that a checkpoint has already.

        Amid bad steps the last checkpoint before them is kept, so that a resumed run goes through them again.
        """
        is_new = done > self._saved_step and not self.config.benchmark
        amid_bad_steps = self.runner.skipped.in_a_row > 0 and self.runner.loss_scale is None
        return is_new and (ends or (done % self.config.save_every == 0 and not amid_bad_steps))

    def _tell_end(self, done: int) -> None:
        for observer in self.observers:
            observer.run_ends(done * self.config.global_batch_size, self.reached_target)

    def _save(self, done: int, evaluation_due: bool, progress: Progress) -> None:
        """Write a checkpoint; what observers wrote first, so that no row that the checkpoint presumes can be lost."""
        progress.within(f"step {done}: saving a checkpoint")
        started = time.monotonic()
        with self.ranks.failing_together():
            if self.ranks.is_main:
                for observer in self.observers:
                    observer.flush_to_disk()
                saved = self._save_on_main_rank(done, evaluation_due)
                self._tell_saved(saved, time.monotonic() - started, started - self._saved_at)
            elif self.runner.shards is not None:
                checkpoint.hand_over_moments(self.runner.model, self.runner.optimizer, self.runner.shards)
        self._saved_step, self._saved_at = done, time.monotonic()

    def _save_on_main_rank(self, done: int, evaluation_due: bool) -> Path:
        folder, runner = self.checkpoints_folder(self.config.output_dir), self.runner
        samples = done * self.config.global_batch_size
        state = checkpoint.Progress(
            done, samples, evaluation_due, runner.loss_scale, runner.skipped, self.loss_trend, self.accuracy
        )
        saved = checkpoint.save_checkpoint(folder, runner.model, runner.optimizer, state, self.identity, runner.shards)
        checkpoint.remove_old_checkpoints(folder, self.config.keep_checkpoints)
        return saved

    def _tell_saved(self, saved: Path, seconds: float, since_last_seconds: float) -> None:
        share = seconds / (seconds + since_last_seconds)
        LOGGER.info("checkpoint %s: %.1f s, %.1f%% of the time since the last", saved, seconds, 100 * share)
        if share > _MAX_SAVING_SHARE and self._saved_step > self.start_step and seconds > 1:
            LOGGER.warning("warning: saving takes %.0f%% of the time: a higher --save-every costs less", 100 * share)

    @staticmethod
    def checkpoints_folder(output_dir: Path) -> Path:
        """Return where a run keeps its checkpoints."""
        return output_dir / "checkpoints"
