"""The training loop: train a step, evaluate and save when it is time to, until a stop criterion is met."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from bert_large.config.training import BENCHMARK_WARMUP_STEPS, TrainConfig
from bert_large.data.batch import RaggedBatch
from bert_large.distributed.collectives import Ranks
from bert_large.log import LOGGER
from bert_large.model.pretrained import require_finite, weights_of
from bert_large.model.weight_files import NonFiniteWeightsError
from bert_large.observe.console import eval_line, step_line, step_status
from bert_large.observe.metrics import EvalMetrics, StepMetrics
from bert_large.observe.observer import Observer
from bert_large.observe.progress import Progress
from bert_large.observe.results import StepTotals
from bert_large.train.bad_steps import BAD_BATCH_FILE, NonFiniteLossError, write_bad_batches
from bert_large.train.cadence import Cadence
from bert_large.train.clock import TrainingClock
from bert_large.train.saving import CheckpointSaver
from bert_large.train.state import TrainingState
from bert_large.train.step import StepRunner
from bert_large.train.stopping import StopRequest, WorkDropped, received_signal


@dataclass(kw_only=True)
class TrainingLoop:
    """Runs the steps of a run on this rank. All ranks run the same loop and take the same decisions."""

    config: TrainConfig
    runner: StepRunner
    ranks: Ranks
    batches: Iterator[list[RaggedBatch]]
    """The micro-batches of each step, from the one after `start`."""
    start: TrainingState
    """State of the run before the first step of this process."""
    stop_request: StopRequest
    clock: TrainingClock = field(default_factory=lambda: TrainingClock(None))
    evaluate: Callable[[], EvalMetrics] | None = None
    """If None, the run has no evaluation data."""
    saver: CheckpointSaver | None = None
    """If None, the run saves nothing, as it only measures speed."""
    observers: Sequence[Observer] = ()
    """Receive the run's events. On ranks other than the main one, the only observer is the profiler, if any."""
    describe_samples: Callable[[int], list[dict[str, Any]]] = lambda step: []
    """Returns the locations of the records of a step (from 0)."""
    check_records: Callable[[int], None] = lambda step: None
    """Checks the records of a step (from 0); called on all ranks when its data have arrived."""
    totals: StepTotals = field(default_factory=lambda: StepTotals(warmup_steps=BENCHMARK_WARMUP_STEPS))
    """Totals over the steps run by this process."""
    stop_signal: int = 0
    """The signal that ended the loop, 0 if none did."""

    def __post_init__(self) -> None:
        self.cadence = Cadence(self.config)
        self.done = self.start.step
        self.accuracy = self.start.masked_lm_accuracy
        """Masked-LM accuracy of the evaluation after step `done`; None if there was none."""
        self._loss_trend = self.start.loss_trend
        evaluates_first = self.start.evaluation_due or (self.config.eval_at_start and self.done == 0)
        self._evaluation_due = self.evaluate is not None and evaluates_first

    def run(self) -> str:
        """Train until the end and return the reason why it ended."""
        self._progress = Progress(
            self.config.planned_steps or 0, "step", visible=self.ranks.is_main, initial=self.done,
            listener=self.ranks.note,
        )  # fmt: skip
        self.clock.start()
        with self._progress:
            while True:
                if self._evaluation_due and not self._is_stop_requested():
                    self._evaluate()
                if self._is_stop_requested():
                    self._save_unless_bad()
                    return f"stopped by signal {self.stop_signal} after step {self.done}"
                # Before the first step too: an earlier process may have been killed after the last step, before
                # it wrote the results.
                if reason := self.cadence.reason_to_end(self.done, self.accuracy, self.clock.seconds):
                    self._finish()
                    return reason
                if self.done % self.config.save_every == 0:
                    self._save_unless_bad()
                self._train_step()

    def _is_stop_requested(self) -> bool:
        """Return whether any rank has received a signal; the answer is the same on all ranks."""
        self.stop_signal = received_signal(self.stop_request, self.ranks)
        return self.stop_signal > 0

    def _train_step(self) -> None:
        """Train the next step, unless it is discarded because all ranks are asked to stop."""
        for observer in self.observers:
            observer.step_starts(self.cadence.samples(self.done))
        started = time.perf_counter()
        self._progress.within(f"step {self.done + 1}: waiting for data")
        micro_batches = next(self.batches)
        self.check_records(self.done)
        data_seconds = time.perf_counter() - started
        sequences = sum(batch.records for batch in micro_batches)
        try:
            metrics = self.runner.run(
                self.done,
                micro_batches,
                data_seconds,
                lambda count: self._progress.within(f"step {self.done + 1}: {count}/{sequences} sequences"),
            )
        except NonFiniteLossError as error:
            raise self._explain_bad_steps(str(error), range(self.done + 1 - self._bad_steps, self.done + 1)) from None
        except WorkDropped:
            self._progress.line(
                f"step {self.done + 1} cannot finish within --stop-deadline; discarded (it runs again on resume)"
            )
            return
        self._log_step(metrics)
        self.done += 1
        self.accuracy = None
        self.clock.update(self.ranks)
        is_due = self.cadence.is_time_to_evaluate(self.done, self.clock.seconds)
        self._evaluation_due = self.evaluate is not None and is_due

    def _log_step(self, metrics: StepMetrics) -> None:
        self.totals.add(metrics)
        for observer in self.observers:
            observer.step(metrics)
        self._progress.advance(status=step_status(metrics))
        self._progress.line(step_line(metrics, self.config.planned_steps), shown_by_bar=True)
        # All ranks see the same metrics, so all raise together.
        if self._bad_steps == 0:
            self._loss_trend = self._loss_trend.after(metrics.masked_lm_loss)
        if self.config.detect_divergence is not None:
            self._loss_trend.require_rise_below(self.config.detect_divergence, metrics.step)

    def _evaluate(self) -> None:
        """Evaluate, unless the evaluation is discarded because all ranks are asked to stop: then it stays due."""
        assert self.evaluate is not None
        samples = self.cadence.samples(self.done)
        for observer in self.observers:
            observer.evaluation_starts(samples)
        try:
            metrics = self.evaluate()
        except WorkDropped:
            self._progress.line(f"evaluation after step {self.done} discarded (it runs again on resume)")
            return
        self._evaluation_due = False
        self.clock.update(self.ranks)
        self.accuracy = metrics.masked_lm_accuracy
        self._progress.line(f"eval after step {self.done}: {eval_line(metrics)}")
        for observer in self.observers:
            observer.evaluation(self.done, samples, metrics)

    def _finish(self) -> None:
        """Report the end of the run and save it; raise `NonFiniteLossError` if its last steps made no update."""
        if self._is_amid_bad_steps:
            bad = range(self.done - self._bad_steps, self.done)
            raise self._explain_bad_steps(f"the run's last {self._bad_steps} steps made no update", bad)
        self._require_finite_weights()
        for observer in self.observers:
            observer.run_ends(self.cadence.samples(self.done), self.cadence.reaches_target(self.accuracy))
        self._save()

    def _save_unless_bad(self) -> None:
        """Save, but not amid bad steps: the last checkpoint before them is kept, and a resumed run repeats them."""
        if not self._is_amid_bad_steps:
            self._require_finite_weights()
            self._save()
        elif self.stop_signal:
            LOGGER.warning(
                "warning: step %d is not saved, as the last %d steps made no update; a resumed run repeats them",
                self.done, self._bad_steps,
            )  # fmt: skip

    def _save(self) -> None:
        if self.saver is None:
            return
        self._progress.within(f"step {self.done}: saving a checkpoint")
        state = TrainingState(
            step=self.done,
            samples=self.cadence.samples(self.done),
            evaluation_due=self._evaluation_due,
            loss_scale=self.runner.loss_scale,
            skipped=self.runner.skipped,
            loss_trend=self._loss_trend,
            masked_lm_accuracy=self.accuracy,
            seconds=None if self.clock.max_hours is None else self.clock.seconds,
        )
        self.saver.save(state, self.observers)

    @property
    def _bad_steps(self) -> int:
        """Number of steps since the last update."""
        return self.runner.skipped.in_a_row

    @property
    def _is_amid_bad_steps(self) -> bool:
        """Whether the last step made no update; with a loss scale that is part of finding the right scale."""
        return self._bad_steps > 0 and self.runner.loss_scale is None

    def _require_finite_weights(self) -> None:
        """Raise `NonFiniteLossError` if the weights must not be saved.

        All ranks hold equal weights, so all raise together.
        """
        if self.done == self.start.step:  # checked when they were loaded
            return
        try:
            require_finite(weights_of(self.runner.model), f"the model after step {self.done}")
        except NonFiniteWeightsError as error:
            raise self._explain_bad_steps(str(error), range(self.done - 1, self.done)) from None

    def _explain_bad_steps(self, reason: str, steps: range) -> NonFiniteLossError:
        """Write which records the bad `steps` (from 0) trained on, and return an error that says what to do."""
        if self.ranks.is_main:
            write_bad_batches(self.config.output_dir, reason, steps, self.describe_samples)
        saved = self.saver.saved_step if self.saver is not None else 0
        kept = f"The checkpoint of step {saved} is kept" if saved else "There is no checkpoint"
        return NonFiniteLossError(
            f"{reason}. {kept}; {self.config.output_dir / BAD_BATCH_FILE} lists the records of those steps. The same "
            "command repeats them; a run in an empty OUTPUT_DIR with a lower --learning-rate or a longer warmup may "
            "avoid them"
        )
