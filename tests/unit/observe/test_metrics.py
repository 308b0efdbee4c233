"""Metrics, and the files that they are written to."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from bert_large.data.tfrecord import iterate_payloads
from bert_large.errors import WriteError
from bert_large.observe import tensorboard
from bert_large.observe.metrics import mean, read_rows, read_steps
from bert_large.observe.metrics_writer import MetricsWriter
from bert_large.train.loss import masked_lm_loss
from tensorboardX.proto.event_pb2 import Event

from tests.support.tensorboard import tensorboard_scalars
from tests.support.training import EVALUATION, step_metrics


def write(folder: Path, first_step: int, *steps: int, evaluation_due: bool = False) -> None:
    writer = MetricsWriter(folder, first_step, evaluation_due)
    for step in steps:
        writer.step(step_metrics(step))
    writer.close()


def write_with_evaluations(folder: Path, *steps: int) -> None:
    """Write a new run that is evaluated after each step."""
    writer = MetricsWriter(folder, 0)
    for step in steps:
        writer.step(step_metrics(step))
        writer.evaluation(step, 8 * step, EVALUATION)
    writer.close()


def steps_of(folder: Path) -> list[int]:
    return [row["step"] for row in read_rows(folder / "metrics.jsonl", "step")]


def test_the_loss_is_the_references() -> None:
    """The sum over (number of tokens + 1e-5); 0 without masked tokens."""
    assert masked_lm_loss(6.0, 3) == 6.0 / 3.00001
    assert masked_lm_loss(0.0, 0) == 0.0
    assert (mean(6.0, 3), mean(6.0, 0)) == (2.0, 0.0)


def test_rows(tmp_path: Path) -> None:
    """One line per event, with the documented names; `samples` counts the sequences trained on."""
    writer = MetricsWriter(tmp_path, 0)
    writer.step(step_metrics(1))
    writer.evaluation(1, 8, EVALUATION)
    writer.close()
    step, evaluation = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert step == {"event": "step", **vars(step_metrics(1))}
    assert evaluation == {
        "event": "eval", "step": 1, "samples": 8, "eval_samples": 50, "masked_lm_loss": 2.0, "masked_lm_accuracy": 0.3,
        "next_sentence_loss": 0.6, "next_sentence_accuracy": 0.7, "most_frequent_token_accuracy": 0.05, "seconds": 9.0,
    }  # fmt: skip


def test_rows_are_written_at_once(tmp_path: Path) -> None:
    """A reader of the file, also after a kill, sees every finished step."""
    writer = MetricsWriter(tmp_path, 0)
    writer.step(step_metrics(1))
    assert steps_of(tmp_path) == [1]
    writer.close()


def test_resuming_deletes_later_rows(tmp_path: Path) -> None:
    """No step is recorded twice; the evaluation after the last kept step stays."""
    write_with_evaluations(tmp_path, 1, 2, 3)
    write(tmp_path, 2, 3, 4)
    assert steps_of(tmp_path) == [1, 2, 3, 4]
    assert [row["step"] for row in read_rows(tmp_path / "metrics.jsonl", "eval")] == [1, 2]


def test_resuming_deletes_a_partial_last_line(tmp_path: Path) -> None:
    write(tmp_path, 0, 1, 2)
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text()[:-20])
    write(tmp_path, 1, 2)
    assert steps_of(tmp_path) == [1, 2]
    assert sorted(child.name for child in tmp_path.iterdir()) == ["metrics.jsonl", "tensorboard"]


def test_a_new_run_starts_with_an_empty_file(tmp_path: Path) -> None:
    """Rows of a benchmark in the same folder do not belong to the run."""
    writer = MetricsWriter(tmp_path, 0)
    writer.evaluation(0, 0, EVALUATION)
    writer.close()
    write(tmp_path, 0, 1)
    assert steps_of(tmp_path) == [1]
    assert read_rows(tmp_path / "metrics.jsonl", "eval") == []


def test_tensorboard_has_the_same_values(tmp_path: Path) -> None:
    """Every value is recorded under its step."""
    writer = MetricsWriter(tmp_path, 0)
    writer.step(step_metrics(1))
    writer.step(step_metrics(2))
    writer.evaluation(2, 16, EVALUATION)
    writer.close()
    found: dict[tuple[str, int], float] = {}
    for path in (tmp_path / "tensorboard").iterdir():
        for _, payload in iterate_payloads(path):
            event = Event.FromString(payload)
            found |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
    expected = {("train/" + name, step): value for step in (1, 2) for name, value in vars(step_metrics(step)).items()}
    expected |= {("eval/" + name, 2): value for name, value in vars(EVALUATION).items()}
    expected[("eval/eval_samples", 2)], expected[("eval/samples", 2)] = 50, 16
    expected = {(name, step): value for (name, step), value in expected.items() if name != "train/step"}
    assert found == pytest.approx(expected, rel=1e-6)


def test_values_that_are_not_finite_are_null(tmp_path: Path) -> None:
    """The row of a skipped update is valid JSON, and TensorBoard gets only the finite values."""
    writer = MetricsWriter(tmp_path, 0)
    writer.step(step_metrics(1, loss=float("nan"), gradient_norm=float("inf")))
    writer.close()

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    row = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=refuse)
    assert list(row) == ["event", *vars(step_metrics(1))]
    assert [name for name, value in row.items() if value is None] == ["loss", "gradient_norm"]
    assert row["masked_lm_loss"] == 3.0


def scalars(folder: Path) -> dict[str, list[int]]:
    """Return the steps that TensorBoard itself shows under each tag."""
    return {tag: [step for step, _ in values] for tag, values in tensorboard_scalars(folder).items()}


def test_tensorboard_shows_each_step_once_after_resumes(tmp_path: Path) -> None:
    """Steps and evaluations after the checkpoint are deleted from the files, for readers that ignore restarts."""
    write_with_evaluations(tmp_path, 1, 2, 3)
    write(tmp_path, 2, 3, 4)
    write(tmp_path, 3, 4, 5, 6)
    assert scalars(tmp_path)["train/loss"] == [1, 2, 3, 4, 5, 6]
    assert scalars(tmp_path)["eval/masked_lm_loss"] == [1, 2]
    events = [Event.FromString(payload) for path in (tmp_path / "tensorboard").iterdir()
              for _, payload in iterate_payloads(path)]  # fmt: skip
    assert sorted(event.step for event in events if event.HasField("summary")) == [1, 1, 2, 2, 3, 4, 5, 6]
    write(tmp_path, 0, 1)
    assert scalars(tmp_path)["train/loss"] == [1] and "eval/masked_lm_loss" not in scalars(tmp_path)


def test_an_evaluation_to_be_repeated_is_deleted(tmp_path: Path) -> None:
    """A run was stopped before an evaluation, resumed, and killed right after it."""
    write_with_evaluations(tmp_path, 1, 2)
    write(tmp_path, 2, 3, evaluation_due=True)
    assert [row["step"] for row in read_rows(tmp_path / "metrics.jsonl", "eval")] == [1]
    assert steps_of(tmp_path) == [1, 2, 3]
    assert scalars(tmp_path)["eval/masked_lm_loss"] == [1] and scalars(tmp_path)["train/loss"] == [1, 2, 3]


def test_remains_of_a_kill_or_a_power_cut_are_deleted(tmp_path: Path) -> None:
    """Truncated rows and events, and bytes that are neither."""
    write(tmp_path, 0, 1, 2, 3)
    (events,) = (tmp_path / "tensorboard").iterdir()
    for path, rest in ((tmp_path / "metrics.jsonl", b"\0\0\0\xff\n{"), (events, b"\0" * 20)):
        path.write_bytes(path.read_bytes()[:-9] + rest)
    write(tmp_path, 2, 3)
    assert steps_of(tmp_path) == [1, 2, 3] == scalars(tmp_path)["train/loss"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"step": 2', '"step": "2"'),
        ('"step": 2', '"step": 2.0'),
        ('"step": 2', '"step": -2'),
        ('"seconds"', '"secondz"'),
        ('"loss": 1.75', '"loss": []'),
        ('"event": "step"', '"event": []'),
        ('"event": "step"', '"event": "stop"'),
        ('{"event"', '"event"'),
    ],
)
def test_a_damaged_row_is_deleted_with_a_warning(
    tmp_path: Path, old: str, new: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A kill damages only the last one; readers skip damaged rows."""
    write(tmp_path, 0, 1, 2, 3)
    path = tmp_path / "metrics.jsonl"
    first, second, third = path.read_text().splitlines(keepends=True)
    assert old in second
    path.write_text(first + second.replace(old, new) + third[:-9])
    assert [step.step for step in read_steps(path)] == [1]
    with caplog.at_level("WARNING", "bert_large"):
        write(tmp_path, 2, 3)
    damaged, missing = caplog.messages
    assert str(path) in damaged and "1 of its 3 rows" in damaged
    assert str(path) in missing and "1 of the steps up to 2" in missing
    assert steps_of(tmp_path) == [1, 3]


def test_metrics_are_read_back(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path, 0)
    writer.step(step_metrics(1))
    writer.step(step_metrics(2, loss=float("inf")))
    first, second = read_steps(tmp_path / "metrics.jsonl")
    assert first == step_metrics(1)
    assert math.isnan(second.loss) and second.masked_lm_loss == 1.5
    writer.close()


@pytest.mark.parametrize("place", ["metrics.jsonl", "tensorboard"])
def test_a_full_disk_is_an_error_at_once(tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the file. A library's writer would wait forever."""
    writer = MetricsWriter(tmp_path, 0)
    file = writer._file if place == "metrics.jsonl" else writer._tensorboard._file
    full = Path("/dev/full").open("ab", buffering=0)  # noqa: SIM115 - the writer closes it
    monkeypatch.setattr(file, "_file", full)
    with pytest.raises(WriteError, match=rf"{tmp_path}/{place}.*No space left on device"):
        writer.step(step_metrics(1))
    writer.close()


def test_missing_rows_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A kill loses none: they are on disk before the checkpoint. A run may start at a later step."""
    path = tmp_path / "metrics.jsonl"
    with caplog.at_level("WARNING", "bert_large"):
        for _ in range(2):
            write(tmp_path, 5, 6)  # from a checkpoint elsewhere
            write(tmp_path, 6, 7)
        assert caplog.messages == []
        path.unlink()
        write(tmp_path, 7, 8)
    assert len(caplog.messages) == 1 and str(path) in caplog.text and "7 of the steps up to 7" in caplog.text


def test_a_damaged_event_is_deleted_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """TensorBoard reads a file up to its first damage; the events after it are kept."""
    write(tmp_path, 0, 1, 2, 3, 4, 5)
    (events,) = (tmp_path / "tensorboard").iterdir()
    frames = list(iterate_payloads(events))
    (place,) = (offset for offset, payload in frames if Event.FromString(payload).step == 2)
    content = bytearray(events.read_bytes())
    content[place + 30] ^= 1
    events.write_bytes(content)
    with caplog.at_level("WARNING", "bert_large"):
        write(tmp_path, 5, 6)
    assert len(caplog.messages) == 1 and str(events) in caplog.text
    assert scalars(tmp_path)["train/loss"] == [1, 3, 4, 5, 6]


def test_a_clock_that_was_set_back_loses_no_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorBoard reads the files in the order of their names, and each of them discards the steps after its start."""
    for first_step, seconds in ((0, 2e9), (2, 1e9), (4, 2e9), (6, 2e9)):
        monkeypatch.setattr(tensorboard.time, "time", lambda seconds=seconds: seconds)
        write(tmp_path, first_step, first_step + 1, first_step + 2)
    assert scalars(tmp_path)["train/loss"] == [1, 2, 3, 4, 5, 6, 7, 8]
