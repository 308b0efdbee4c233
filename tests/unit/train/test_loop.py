"""When the loop evaluates, saves and stops, with simulated steps and evaluations."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from bert_large.distributed.collectives import Ranks
from bert_large.observe.metrics import EvalMetrics, StepMetrics
from bert_large.observe.metrics_writer import MetricsWriter
from bert_large.observe.observer import Observer
from bert_large.train import clock
from bert_large.train.bad_steps import NonFiniteLossError, SkippedSteps
from bert_large.train.checkpoint import read_state
from bert_large.train.clock import TrainingClock
from bert_large.train.loop import TrainingLoop
from bert_large.train.saving import CheckpointSaver
from bert_large.train.state import TrainingState
from bert_large.train.step import StepRunner
from bert_large.train.stopping import StopRequest, WorkDropped

from tests.support.runs import eval_rows, step_rows
from tests.support.training import EVALUATION, step_metrics, train_config, trained


class Steps:
    """Stands for a `StepRunner` with batches of 8 sequences. A signal may arrive during a step.

    Steps from `bad_from` on make no update; step `spoils_at` makes the weights NaN.
    """

    def __init__(
        self,
        stop_request: StopRequest,
        *,
        signal_at: int | None = None,
        drop_at: int | None = None,
        bad_from: int | None = None,
        spoils_at: int | None = None,
    ) -> None:
        self.model, self.optimizer = trained(steps=1)
        self.stop_request, self.signal_at, self.drop_at = stop_request, signal_at, drop_at
        self.bad_from, self.spoils_at = bad_from, spoils_at
        self.loss_scale, self.skipped, self.shards = None, SkippedSteps(), None

    def run(self, step: int, micro_batches: list[Any], data_seconds: float, on_sequences: Any) -> StepMetrics:
        if step + 1 in (self.signal_at, self.drop_at):
            self.stop_request.signal_number = 15
        if step + 1 == self.drop_at:
            raise WorkDropped
        if self.bad_from is not None and step + 1 >= self.bad_from:
            self.skipped = self.skipped.after_skip()
        if step + 1 == self.spoils_at:
            next(self.model.parameters()).data[0] = float("nan")
        return step_metrics(step + 1)


def make_loop(
    folder: Path, *, start: TrainingState | None = None, accuracies: list[float | None] | None = None,
    steps: dict[str, int] | None = None, observers: tuple[Observer, ...] = (), timer: TrainingClock | None = None,
    **config: Any,
) -> TrainingLoop:  # fmt: skip
    """Return a loop whose evaluations return `accuracies` in turn, or that does not evaluate if it is None.

    A signal arrives in an evaluation whose accuracy is None; `steps` are the arguments of `Steps`.
    """
    remaining, stop_request, start = list(accuracies or []), StopRequest(), start or TrainingState()
    runner = cast(StepRunner, Steps(stop_request, **steps or {}))
    train = train_config(folder, **{"max_steps": 6, "save_every": 100, **config})

    def evaluate() -> EvalMetrics:
        accuracy = remaining.pop(0)
        if accuracy is None:
            stop_request.signal_number = 15
            raise WorkDropped
        return dataclasses.replace(EVALUATION, masked_lm_accuracy=accuracy)

    saver = CheckpointSaver(
        folder / "checkpoints", keep=train.keep_checkpoints, runner=runner, ranks=Ranks(), identity={},
        start_step=start.step,
    )  # fmt: skip
    return TrainingLoop(
        config=train,
        runner=runner,
        ranks=Ranks(),
        batches=iter([[]] * 100),
        start=start,
        stop_request=stop_request,
        evaluate=None if accuracies is None else evaluate,
        saver=None if train.benchmark else saver,
        observers=[MetricsWriter(folder, start.step, start.evaluation_due), *observers],
        describe_samples=lambda step: [{"sample": 8 * step}],
        clock=timer or TrainingClock(None),
    )


def checkpoints(folder: Path) -> dict[int, bool]:
    """Return the steps that have checkpoints, and whether an evaluation is due at each."""
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
    loop.run()
    assert [(row["step"], row["samples"]) for row in eval_rows(tmp_path)] == [(3, 24), (5, 40), (6, 48)]
    assert loop.accuracy == 0.3
    assert trained_steps(tmp_path) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(("interval", "expected"), [(3, [1, 2, 3, 4, 5, 6]), (49, [])])
def test_unusual_evaluation_intervals(tmp_path: Path, interval: int, expected: list[int]) -> None:
    """A batch that spans several intervals is one evaluation; a run shorter than an interval is a trial without any."""
    make_loop(tmp_path, accuracies=[0.1] * 6, eval_every_samples=interval).run()
    assert evaluated(tmp_path) == expected


class Listener(Observer):
    """Records the events it receives, by name and samples."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []

    def step_starts(self, samples: int) -> None:
        self.events.append(("step starts", samples))

    def step(self, metrics: StepMetrics) -> None:
        self.events.append(("step", metrics.samples))

    def evaluation_starts(self, samples: int) -> None:
        self.events.append(("evaluation starts", samples))

    def evaluation(self, step: int, samples: int, metrics: EvalMetrics) -> None:
        self.events.append(("evaluation", step, samples, metrics.masked_lm_accuracy))

    def run_ends(self, samples: int, reached_target: bool) -> None:
        self.events.append(("run ends", samples, reached_target))

    def flush_to_disk(self) -> None:
        self.events.append(("flush",))


def events_of(folder: Path, **how: Any) -> list[tuple[Any, ...]]:
    """Run a loop and return the events that an observer received."""
    listener = Listener()
    make_loop(folder, observers=(listener,), **how).run()
    return listener.events


def test_observers_receive_events_in_order(tmp_path: Path) -> None:
    """The end comes before the last checkpoint: writing it is not part of the run's time."""
    assert events_of(tmp_path, accuracies=[0.4, 0.5], eval_every_samples=16, target_accuracy=0.5) == [
        ("step starts", 0), ("step", 8), ("step starts", 8), ("step", 16),
        ("evaluation starts", 16), ("evaluation", 2, 16, 0.4),
        ("step starts", 16), ("step", 24), ("step starts", 24), ("step", 32),
        ("evaluation starts", 32), ("evaluation", 4, 32, 0.5), ("run ends", 32, True), ("flush",),
    ]  # fmt: skip


@pytest.mark.parametrize("config", [{}, {"max_steps": 1}])
def test_an_interrupted_run_does_not_end(tmp_path: Path, config: dict[str, int]) -> None:
    expected = [("step starts", 0), ("step", 8), ("flush",)]
    assert events_of(tmp_path, steps={"signal_at": 1}, **config) == expected


def test_a_run_may_end_without_a_step(tmp_path: Path) -> None:
    """It was resumed at its end, and misses its target."""
    assert events_of(tmp_path, start=TrainingState(6), target_accuracy=0.5) == [("run ends", 48, False)]


def test_stops_at_the_target(tmp_path: Path) -> None:
    """An accuracy equal to the target is enough; the last checkpoint is of that step."""
    make_loop(tmp_path, accuracies=[0.4, 0.5, 0.9], eval_every_samples=8, target_accuracy=0.5).run()
    assert (trained_steps(tmp_path), checkpoints(tmp_path)) == ([1, 2], {2: False})


def test_stops_at_max_samples(tmp_path: Path) -> None:
    """At the first step that reaches it, with a last evaluation and checkpoint."""
    make_loop(tmp_path, accuracies=[0.1, 0.2], eval_every_samples=16, max_samples=17).run()
    assert (trained_steps(tmp_path), evaluated(tmp_path), checkpoints(tmp_path)) == ([1, 2, 3], [2, 3], {3: False})


@pytest.mark.parametrize(
    ("config", "saved"),
    [
        ({"save_every": 2, "max_steps": 5, "keep_checkpoints": 9}, [2, 4, 5]),
        ({"save_every": 1, "keep_checkpoints": 2}, [5, 6]),
        ({"save_every": 1, "benchmark": True}, []),
    ],
)
def test_saves_at_intervals_and_at_the_end(tmp_path: Path, config: dict[str, Any], saved: list[int]) -> None:
    make_loop(tmp_path, **config).run()
    assert list(checkpoints(tmp_path)) == saved
    assert trained_steps(tmp_path) == list(range(1, config.get("max_steps", 6) + 1))


def test_a_signal_ends_the_loop_after_the_current_step(tmp_path: Path) -> None:
    loop = make_loop(tmp_path, steps={"signal_at": 3})
    assert "signal 15" in loop.run() and loop.stop_signal == 15
    assert (trained_steps(tmp_path), checkpoints(tmp_path)) == ([1, 2, 3], {3: False})


def test_an_evaluation_that_a_signal_prevents_runs_after_the_resume(tmp_path: Path) -> None:
    """It could outlast the time until a scheduler's kill, so the checkpoint records that it is due."""
    make_loop(tmp_path, steps={"signal_at": 3}, accuracies=[], eval_every_samples=20).run()
    assert (evaluated(tmp_path), checkpoints(tmp_path)) == ([], {3: True})
    make_loop(tmp_path, start=TrainingState(3, 24, True), accuracies=[0.1, 0.2, 0.3], eval_every_samples=20).run()
    assert (trained_steps(tmp_path), evaluated(tmp_path)) == ([1, 2, 3, 4, 5, 6], [3, 5, 6])


def test_an_evaluation_after_the_resume_can_end_the_run(tmp_path: Path) -> None:
    loop = make_loop(tmp_path, start=TrainingState(3, 24, True), accuracies=[0.6], target_accuracy=0.5)
    assert "0.60000" in loop.run()
    assert loop.totals.steps == 0


def test_eval_at_start_evaluates_new_runs_only(tmp_path: Path) -> None:
    make_loop(tmp_path, accuracies=[0.1], eval_at_start=True, max_steps=1).run()
    assert evaluated(tmp_path) == [0]
    (tmp_path / "resumed").mkdir()
    make_loop(tmp_path / "resumed", start=TrainingState(1), accuracies=[], eval_at_start=True, max_steps=2).run()


@pytest.mark.parametrize(
    ("start", "config"),
    [
        (TrainingState(4), {"max_steps": 4}),
        (TrainingState(4), {"max_samples": 30}),
        (TrainingState(4, masked_lm_accuracy=0.5), {"target_accuracy": 0.5}),
    ],
)
def test_a_run_killed_at_its_end_trains_no_further(
    tmp_path: Path, start: TrainingState, config: dict[str, Any]
) -> None:
    """Resumed from its last checkpoint, it only has to write its results."""
    loop = make_loop(tmp_path, start=start, accuracies=[], **config)
    loop.run()
    assert loop.totals.steps == 0 and not (tmp_path / "checkpoints").exists()


def test_a_target_raised_since_the_checkpoint_is_not_reached(tmp_path: Path) -> None:
    start = TrainingState(4, masked_lm_accuracy=0.5)
    loop = make_loop(tmp_path, start=start, accuracies=[0.1, 0.1], target_accuracy=0.6, eval_every_samples=40)
    loop.run()
    assert loop.totals.steps == 2


def test_a_checkpoint_holds_the_accuracy_of_its_step(tmp_path: Path) -> None:
    make_loop(tmp_path, accuracies=[0.3, 0.4], eval_every_samples=24, save_every=1, keep_checkpoints=9).run()
    states = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("checkpoints/*/state.json"))]
    assert [state["masked_lm_accuracy"] for state in states] == [None, None, 0.3, None, None, 0.4]


@pytest.mark.parametrize(
    ("drop_at", "start_step", "config", "saved"),
    [(4, 0, {}, [3]), (1, 0, {}, []), (4, 3, {}, []), (3, 0, {"save_every": 2}, [2])],
)
def test_a_dropped_step_leaves_a_checkpoint_of_the_one_before(
    tmp_path: Path, drop_at: int, start_step: int, config: dict[str, Any], saved: list[int]
) -> None:
    """It is recorded nowhere and runs again on resume. A checkpoint that exists is not put at risk by replacing it."""
    make_loop(tmp_path, start=TrainingState(start_step), steps={"drop_at": drop_at}, **config).run()
    assert trained_steps(tmp_path) == list(range(start_step + 1, drop_at))
    assert list(checkpoints(tmp_path)) == saved


def test_a_dropped_evaluation_runs_after_the_resume(tmp_path: Path) -> None:
    """A signal arrives within it: the checkpoint records that it is due, and it is recorded once."""
    make_loop(tmp_path, accuracies=[0.1, None], eval_every_samples=16).run()
    assert (evaluated(tmp_path), checkpoints(tmp_path)) == ([2], {4: True})
    resumed: dict[str, Any] = {"start": TrainingState(4, 32, True), "eval_every_samples": 16}
    for _ in range(2):  # the first process is killed after the evaluation
        make_loop(tmp_path, accuracies=[0.2, 0.3], steps={"drop_at": 5}, **resumed).run()
    make_loop(tmp_path, accuracies=[0.2, 0.3], **resumed).run()
    assert (trained_steps(tmp_path), evaluated(tmp_path)) == ([1, 2, 3, 4, 5, 6], [2, 4, 6])


@pytest.mark.parametrize(("steps", "records"), [({"bad_from": 5}, [5, 6]), ({"spoils_at": 6}, [6])])
def test_a_run_whose_last_steps_are_bad_ends_with_an_error(
    tmp_path: Path, steps: dict[str, int], records: list[int]
) -> None:
    """Without updates, or with weights that are NaN: the last good checkpoint is kept, and the run does not end."""
    listener = Listener()
    with pytest.raises(NonFiniteLossError, match=f"{tmp_path}/bad_batch.json"):
        make_loop(tmp_path, steps=steps, save_every=2, keep_checkpoints=9, observers=(listener,)).run()
    assert checkpoints(tmp_path) == {2: False, 4: False}
    assert "run ends" not in [event[0] for event in listener.events]
    batches = json.loads((tmp_path / "bad_batch.json").read_text())["batches"]
    assert [batch["step"] for batch in batches] == records


@pytest.mark.parametrize(("bad_from", "saved"), [(3, [2]), (4, [2, 3]), (1, [])])
def test_a_signal_amid_bad_steps_saves_nothing(
    tmp_path: Path, bad_from: int, saved: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    """The resumed run goes through them again, from the last good checkpoint."""
    loop = make_loop(tmp_path, steps={"bad_from": bad_from, "signal_at": 3}, save_every=2, keep_checkpoints=9)
    loop.run()
    assert loop.stop_signal == 15 and list(checkpoints(tmp_path)) == saved
    assert ("warning" in caplog.text) == (bad_from < 4)


def test_spoilt_weights_are_not_saved_at_a_signal(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteLossError):
        make_loop(tmp_path, steps={"spoils_at": 3, "signal_at": 3}, save_every=2).run()
    assert checkpoints(tmp_path) == {2: False}


def test_slow_saving_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """By its share of the time, from the second checkpoint on: the first may come right after the start."""
    saver = make_loop(tmp_path).saver
    assert saver is not None
    with caplog.at_level("WARNING", "bert_large"):
        saver._log_saved(tmp_path, 6.0, 94.0)
        saver.saved_step = 2
        saver._log_saved(tmp_path, 4.0, 96.0)
        assert caplog.messages == []
        saver._log_saved(tmp_path, 6.0, 94.0)
    assert len(caplog.messages) == 1 and "--save-every" in caplog.text


@pytest.fixture
def minutes(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return a list with the present time in minutes, as clocks of training see it."""
    now = [1000.0]
    monkeypatch.setattr(clock, "time", SimpleNamespace(monotonic=lambda: 60 * now[0]))
    return now


def run_of_hours(folder: Path, minutes: list[float], start: TrainingState | None = None, **how: Any) -> TrainingLoop:
    """Return a loop of one hour whose steps take 8 minutes each."""
    before = start.seconds if start is not None else None
    loop = make_loop(
        folder, start=start, timer=TrainingClock(1.0, before or 0.0), max_hours=1.0, max_steps=10**9, **how
    )
    run = loop.runner.run

    def take_time(*arguments: Any) -> StepMetrics:
        minutes[0] += 8
        return run(*arguments)

    loop.runner.run = take_time  # type: ignore[method-assign, assignment]
    return loop


def test_a_run_ends_when_its_hours_have_passed(tmp_path: Path, minutes: list[float]) -> None:
    """After 8 steps of 8 minutes; evaluations count too, and the last step is evaluated."""
    loop = run_of_hours(tmp_path, minutes, accuracies=[0.1] * 9, eval_every_samples=48)
    minutes[0] += 500  # before the loop starts
    assert "--max-hours 1" in loop.run()
    assert trained_steps(tmp_path) == list(range(1, 9))
    assert evaluated(tmp_path) == [6, 8]
    assert loop.clock.seconds == 64 * 60 and loop.clock.share() == 1.0
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000008"]


def test_hours_count_over_interruptions(tmp_path: Path, minutes: list[float]) -> None:
    """The time between the processes does not count; that of earlier ones does."""
    run_of_hours(tmp_path, minutes, steps={"signal_at": 3}).run()
    state, _ = read_state(tmp_path / "checkpoints" / "step-00000003")
    assert state.seconds == 24 * 60
    minutes[0] += 5000
    loop = run_of_hours(tmp_path, minutes, start=state)
    loop.run()
    assert trained_steps(tmp_path) == list(range(1, 9)) and loop.clock.seconds == 64 * 60
    ended = run_of_hours(tmp_path, minutes, start=TrainingState(8, 64, seconds=3600.0))
    assert "--max-hours" in ended.run() and ended.totals.steps == 0


def test_a_run_of_steps_stores_no_time(tmp_path: Path, minutes: list[float]) -> None:
    """Its checkpoints are equal bit for bit, however long it took."""
    make_loop(tmp_path).run()
    assert read_state(tmp_path / "checkpoints" / "step-00000006")[0].seconds is None
