"""The loop's decisions: when to evaluate, save and stop; with a made-up step and evaluation."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, cast

import pytest
from bert_large.distributed.collectives import Ranks
from bert_large.observe.metrics import EvalMetrics, MetricsWriter, StepMetrics
from bert_large.train.bad_steps import SkippedSteps
from bert_large.train.loop import TrainingLoop
from bert_large.train.step import StepRunner
from bert_large.train.stopping import StopRequest, WorkDropped

from tests.support.runs import eval_rows, step_rows
from tests.unit.observe.test_metrics import EVALUATION, step_figures
from tests.unit.train.test_checkpoint import trained
from tests.unit.train.test_run_folder import train_config


class Steps:
    """Stands for a `StepRunner` of batches of 8: every step takes no time, and may bring a signal."""

    def __init__(self, stop_request: StopRequest, signal_at: int | None, drop_at: int | None) -> None:
        self.model, self.optimizer = trained(steps=1)
        self.stop_request, self.signal_at, self.drop_at = stop_request, signal_at, drop_at
        self.loss_scale, self.skipped, self.shards = None, SkippedSteps(), None

    def run(self, step: int, micro_batches: list[Any], data_seconds: float, on_sequences: Any) -> StepMetrics:
        if step + 1 in (self.signal_at, self.drop_at):
            self.stop_request.signal_number = 15
        if step + 1 == self.drop_at:
            raise WorkDropped
        return step_figures(step + 1)


def make_loop(
    folder: Path, *, start_step: int = 0, evaluate_first: bool = False, start_accuracy: float | None = None,
    signal_at: int | None = None, drop_at: int | None = None, accuracies: list[float | None] | None = None,
    **config: Any,
) -> TrainingLoop:  # fmt: skip
    """Return a loop whose evaluations give `accuracies`, one after another; None: there is no evaluation set.

    A signal comes within step `signal_at` or `drop_at`, which is dropped, or in an evaluation whose accuracy is None.
    """
    remaining = list(accuracies or [])

    def evaluate() -> EvalMetrics:
        accuracy = remaining.pop(0)
        if accuracy is None:
            stop_request.signal_number = 15
            raise WorkDropped
        return dataclasses.replace(EVALUATION, masked_lm_accuracy=accuracy)

    stop_request = StopRequest()
    return TrainingLoop(
        config=train_config(folder, **{"max_steps": 6, "save_every": 100, **config}),
        runner=cast(StepRunner, Steps(stop_request, signal_at, drop_at)),
        ranks=Ranks(),
        batches=iter([[]] * 100),
        evaluate=None if accuracies is None else evaluate,
        observers=[MetricsWriter(folder, start_step, evaluate_first)],
        identity={},
        describe_samples=lambda step: [{"sample": 8 * step}],
        stop_request=stop_request,
        start_step=start_step,
        evaluate_first=evaluate_first,
        start_accuracy=start_accuracy,
    )


def checkpoints(folder: Path) -> dict[int, bool]:
    """Return the steps that have checkpoints, and whether an evaluation was left undone at each."""
    states = [json.loads(path.read_text()) for path in folder.glob("checkpoints/*/state.json")]
    assert all(state["samples"] == 8 * state["step"] for state in states)
    return {state["step"]: state["evaluation_due"] for state in sorted(states, key=lambda state: state["step"])}


def evaluated(folder: Path) -> list[int]:
    return [row["step"] for row in eval_rows(folder)]


def trained_steps(folder: Path) -> list[int]:
    return [row["step"] for row in step_rows(folder)]


def test_evaluates_at_each_multiple_of_the_interval_and_at_the_end(tmp_path: Path) -> None:
    """Batches of 8, every 20 samples: at the first step that reaches 20 (24) and 40 (40), and at the end (48)."""
    loop = make_loop(tmp_path, accuracies=[0.1, 0.2, 0.3], eval_every_samples=20)
    assert loop.run() == "all 6 steps done"
    assert [(row["step"], row["samples"]) for row in eval_rows(tmp_path)] == [(3, 24), (5, 40), (6, 48)]
    assert loop.accuracy == 0.3
    assert trained_steps(tmp_path) == [1, 2, 3, 4, 5, 6]


class Listener:
    """An observer that notes what it is told, by name and samples."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def step_starts(self, samples: int) -> None:
        self.told.append(("step starts", samples))

    def step(self, figures: StepMetrics) -> None:
        self.told.append(("step", figures.samples))

    def evaluation_starts(self, samples: int) -> None:
        self.told.append(("evaluation starts", samples))

    def evaluation(self, step: int, trained_samples: int, figures: EvalMetrics) -> None:
        self.told.append(("evaluation", step, trained_samples, figures.masked_lm_accuracy))

    def run_ends(self, samples: int, reached_target: bool) -> None:
        self.told.append(("run ends", samples, reached_target))

    def flush_to_disk(self) -> None:
        self.told.append(("flush",))

    def close(self) -> None:
        self.told.append(("close",))


def listen(folder: Path, **how: Any) -> list[tuple[Any, ...]]:
    """Run a loop and return what an observer beside the metrics' was told."""
    loop, listener = make_loop(folder, **how), Listener()
    loop.observers = [*loop.observers, listener]
    loop.run()
    return listener.told


def test_observers_are_told_in_order(tmp_path: Path) -> None:
    """The end before the last checkpoint, whose writing is no part of the run."""
    told = listen(tmp_path, accuracies=[0.4, 0.5], eval_every_samples=16, target_accuracy=0.5)
    assert told == [
        ("step starts", 0), ("step", 8), ("step starts", 8), ("step", 16),
        ("evaluation starts", 16), ("evaluation", 2, 16, 0.4),
        ("step starts", 16), ("step", 24), ("step starts", 24), ("step", 32),
        ("evaluation starts", 32), ("evaluation", 4, 32, 0.5), ("run ends", 32, True), ("flush",),
    ]  # fmt: skip


def test_an_interruption_is_no_end(tmp_path: Path) -> None:
    expected = [("step starts", 0), ("step", 8), ("flush",)]
    assert listen(tmp_path, signal_at=1) == expected
    assert listen(tmp_path, signal_at=1, max_steps=1) == expected


def test_a_run_may_end_without_a_step(tmp_path: Path) -> None:
    """Resumed at its end; and one that misses its target says so."""
    assert listen(tmp_path, start_step=6, target_accuracy=0.5) == [("run ends", 48, False)]


def test_a_batch_over_several_intervals_is_one_evaluation(tmp_path: Path) -> None:
    make_loop(tmp_path, accuracies=[0.1] * 6, eval_every_samples=3).run()
    assert evaluated(tmp_path) == [1, 2, 3, 4, 5, 6]


def test_a_trial_is_not_evaluated(tmp_path: Path) -> None:
    """A run that ends before its first interval: evaluating BERT-large could take longer than all of it."""
    make_loop(tmp_path, accuracies=[], eval_every_samples=49).run()
    assert evaluated(tmp_path) == []


def test_stops_at_the_target(tmp_path: Path) -> None:
    """At equality already; the last checkpoint is of that step."""
    loop = make_loop(tmp_path, accuracies=[0.4, 0.5, 0.9], eval_every_samples=8, target_accuracy=0.5)
    assert loop.run() == "masked_lm_accuracy 0.50000 reaches the target 0.5"
    assert (trained_steps(tmp_path), checkpoints(tmp_path)) == ([1, 2], {2: False})


def test_stops_at_max_samples(tmp_path: Path) -> None:
    """At the first step that reaches it, with a last evaluation and checkpoint."""
    loop = make_loop(tmp_path, accuracies=[0.1, 0.2], eval_every_samples=16, max_samples=17)
    assert loop.run() == "24 samples reach --max-samples 17"
    assert (trained_steps(tmp_path), evaluated(tmp_path), checkpoints(tmp_path)) == ([1, 2, 3], [2, 3], {3: False})


def test_saves_every_so_many_steps_and_at_the_end(tmp_path: Path) -> None:
    make_loop(tmp_path, save_every=2, max_steps=5, keep_checkpoints=9).run()
    assert checkpoints(tmp_path) == {2: False, 4: False, 5: False}


def test_keeps_the_newest_checkpoints(tmp_path: Path) -> None:
    make_loop(tmp_path, save_every=1, keep_checkpoints=2).run()
    assert list(checkpoints(tmp_path)) == [5, 6]


def test_a_benchmark_saves_nothing(tmp_path: Path) -> None:
    make_loop(tmp_path, save_every=1, benchmark=True).run()
    assert checkpoints(tmp_path) == {} and len(trained_steps(tmp_path)) == 6


def test_a_signal_ends_the_loop_after_the_step_in_hand(tmp_path: Path) -> None:
    loop = make_loop(tmp_path, signal_at=3)
    assert loop.run() == "stopped by signal 15 after step 3"
    assert loop.stop_signal == 15
    assert (trained_steps(tmp_path), checkpoints(tmp_path)) == ([1, 2, 3], {3: False})


def test_an_evaluation_that_a_signal_prevents_is_made_up_for(tmp_path: Path) -> None:
    """It could outlast the grace before a kill, so the checkpoint notes it; the resumed run starts with it."""
    make_loop(tmp_path, signal_at=3, accuracies=[], eval_every_samples=20).run()
    assert (evaluated(tmp_path), checkpoints(tmp_path)) == ([], {3: True})
    resumed = make_loop(tmp_path, start_step=3, evaluate_first=True, accuracies=[0.1, 0.2, 0.3], eval_every_samples=20)
    resumed.run()
    assert (trained_steps(tmp_path), evaluated(tmp_path)) == ([1, 2, 3, 4, 5, 6], [3, 5, 6])


def test_an_evaluation_that_was_made_up_for_can_end_the_run(tmp_path: Path) -> None:
    loop = make_loop(tmp_path, start_step=3, evaluate_first=True, accuracies=[0.6], target_accuracy=0.5)
    assert loop.run() == "masked_lm_accuracy 0.60000 reaches the target 0.5"
    assert loop.totals.steps == 0


@pytest.mark.parametrize(
    ("config", "reason"),
    [({"max_steps": 4}, "all 4 steps done"), ({"max_samples": 30}, "32 samples reach --max-samples 30")],
)
def test_a_run_killed_at_its_end_trains_no_further(tmp_path: Path, config: dict[str, Any], reason: str) -> None:
    """Resumed from its last checkpoint it only has to leave its results."""
    loop = make_loop(tmp_path, start_step=4, accuracies=[], **config)
    assert loop.run() == reason
    assert loop.totals.steps == 0 and not (tmp_path / "checkpoints").exists()


def test_a_run_killed_at_its_target_trains_no_further(tmp_path: Path) -> None:
    """The checkpoint knows the accuracy of its step; a target that was raised since is not reached."""
    loop = make_loop(tmp_path, start_step=4, accuracies=[], start_accuracy=0.5, target_accuracy=0.5)
    assert loop.run() == "masked_lm_accuracy 0.50000 reaches the target 0.5"
    assert loop.totals.steps == 0 and loop.reached_target
    further = make_loop(
        tmp_path, start_step=4, accuracies=[0.1, 0.1], start_accuracy=0.5, target_accuracy=0.6, eval_every_samples=40
    )
    assert further.run() == "all 6 steps done"


def test_a_checkpoint_knows_the_accuracy_of_its_step(tmp_path: Path) -> None:
    make_loop(tmp_path, accuracies=[0.3, 0.4], eval_every_samples=24, save_every=1, keep_checkpoints=9).run()
    states = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("checkpoints/*/state.json"))]
    assert [state["masked_lm_accuracy"] for state in states] == [None, None, 0.3, None, None, 0.4]


def test_a_dropped_step_leaves_a_checkpoint_of_the_one_before(tmp_path: Path) -> None:
    """It is told nowhere; resumed, the run makes it anew."""
    loop = make_loop(tmp_path, drop_at=4)
    assert loop.run() == "stopped by signal 15 after step 3"
    assert (trained_steps(tmp_path), checkpoints(tmp_path)) == ([1, 2, 3], {3: False})


@pytest.mark.parametrize("changes", [{"drop_at": 1}, {"drop_at": 4, "start_step": 3}, {"drop_at": 3, "save_every": 2}])
def test_what_is_saved_already_is_not_saved_again(tmp_path: Path, changes: dict[str, Any]) -> None:
    """To replace a checkpoint by its like would only put it at risk."""
    make_loop(tmp_path, **changes).run()
    assert checkpoints(tmp_path) == ({2: False} if "save_every" in changes else {})


def test_a_dropped_evaluation_is_made_up_for(tmp_path: Path) -> None:
    """A signal within it: the checkpoint notes that it is due, and what it told is not told twice."""
    loop = make_loop(tmp_path, accuracies=[0.1, None], eval_every_samples=16)
    assert loop.run() == "stopped by signal 15 after step 4"
    assert (evaluated(tmp_path), checkpoints(tmp_path)) == ([2], {4: True})
    for _ in range(2):  # the first is killed after the evaluation
        make_loop(
            tmp_path, start_step=4, evaluate_first=True, accuracies=[0.2, 0.3], eval_every_samples=16, drop_at=5
        ).run()
    make_loop(tmp_path, start_step=4, evaluate_first=True, accuracies=[0.2, 0.3], eval_every_samples=16).run()
    assert (trained_steps(tmp_path), evaluated(tmp_path)) == ([1, 2, 3, 4, 5, 6], [2, 4, 6])


def test_saving_that_takes_long_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """By share of the time, from the second checkpoint on: the first may come right after the start."""
    loop = make_loop(tmp_path)
    with caplog.at_level("INFO", "bert_large"):
        loop._tell_saved(tmp_path, 6.0, 94.0)
        assert "6.0 s, 6.0% of the time since the last" in caplog.text and "warning" not in caplog.text
        loop._saved_step = 2
        loop._tell_saved(tmp_path, 4.0, 96.0)
        assert "warning" not in caplog.text
        loop._tell_saved(tmp_path, 6.0, 94.0)
    assert "warning: saving takes 6% of the time: a higher --save-every costs less" in caplog.text
