"""Whole runs on packed sequences of text, with words masked, a growing batch, other schedules, and a budget of time."""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from bert_large.data.dataset import Dataset
from bert_large.data.loader import StepBatches
from bert_large.observe.results import StepTotals
from bert_large.train import clock
from bert_large.train.checkpoint import read_state

from tests.integration.test_from_text import VOCAB_SIZE, write_text
from tests.support.models import write_config
from tests.support.runs import (
    Task,
    assert_same_losses,
    eval_rows,
    options,
    run_here,
    run_torchrun,
    step_rows,
    without_timings,
)

SETTINGS = {
    "recipe": "continued",
    "global_batch_size": 8,
    "start_batch_size": 2,
    "batch_ramp_steps": 4,
    "max_steps": 8,
    "total_steps": 10,
    "masking_unit": "word",
    "masking_rate": 0.3,
    "schedule": "wsd",
    "data_workers": 0,
    "eval_every_samples": 20,
    "save_every": 3,
}
SIZES = [2, 3, 5, 6, 8, 8, 8, 8]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with text and the configuration of a tiny model with dropout."""
    folder = tmp_path_factory.mktemp("packed")
    write_text(folder / "text", articles=120)
    write_config(folder / "config.json", vocab_size=VOCAB_SIZE)
    return folder


def arguments(place: Path, output_dir: Path, **changes: Any) -> list[str]:
    given = {"text_dir": place / "text", "config_file": place / "config.json", **SETTINGS, **changes}
    return ["pretrain", *options(output_dir=output_dir, **given)]


@pytest.fixture(scope="module")
def trained(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of an uninterrupted run."""
    output = tmp_path_factory.mktemp("trained") / "out"
    assert run_here(*arguments(place, output)) == 0
    return output


def records_of(output: Path) -> Dataset:
    return Dataset.open(output / "records" / "seq_128", output / "data_index", build=True)


def on_records(place: Path, trained: Path, **changes: Any) -> dict[str, Any]:
    """Return settings of a run on the records that another run made of text."""
    vocab_file = trained / "records" / "vocab.txt"
    return {"text_dir": None, "dataset_dir": trained / "records", "vocab_file": vocab_file, **changes}


def test_a_run_on_packed_sequences(trained: Path) -> None:
    """Full sequences, trained in growing batches under the schedule, and evaluated on packed ones too."""
    dataset = records_of(trained)
    assert dataset.total_tokens() / len(dataset) > 120
    assert any(len(record.part_starts) > 1 for record in dataset.read_all(range(len(dataset))))
    steps, evaluations = step_rows(trained), eval_rows(trained)
    assert [row["samples"] for row in steps] == [sum(SIZES[: step + 1]) for step in range(8)]
    assert evaluations[0]["step"] == 5  # the first after 20 samples
    held_out = Dataset.open(trained / "records" / "eval", trained / "data_index", build=True)
    assert {row["eval_samples"] for row in evaluations} == {len(held_out)}
    assert steps[0]["next_sentence_loss"] is None
    peak = 5e-4
    assert [row["learning_rate"] for row in steps] == pytest.approx([0.0, *[peak] * 7])  # 1 step of warmup, 2 of decay
    assert json.loads((trained / "model_save" / "config.json").read_text())["architectures"] == ["BertForMaskedLM"]


def test_the_masks_are_of_whole_words(place: Path, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the rate given, in every batch that the run trains on."""
    shares: list[float] = []
    read = StepBatches.read

    def watch(self: StepBatches, step: int) -> Any:
        batches, bad = read(self, step)
        shares.extend(batch.masked_tokens / batch.tokens for batch in batches)
        return batches, bad

    monkeypatch.setattr(StepBatches, "read", watch)
    assert run_here(*arguments(place, trained.parent / "watched", **on_records(place, trained))) == 0
    assert shares and all(share == pytest.approx(0.3, abs=0.02) for share in shares)
    # The records made of text earlier give the same run.
    assert without_timings(step_rows(trained.parent / "watched")) == without_timings(step_rows(trained))


def test_stopped_and_resumed(place: Path, trained: Path, tmp_path: Path) -> None:
    """In the ramp and after it: equal bit for bit."""
    for steps in (2, 5, 8):
        assert run_here(*arguments(place, tmp_path, **on_records(place, trained), max_steps=steps)) == 0
    assert_same_run_but_evaluations(tmp_path, trained)


def assert_same_run_but_evaluations(found: Path, expected: Path) -> None:
    """Compare steps and weights; a shorter run has an evaluation at its end."""
    assert without_timings(step_rows(found)) == without_timings(step_rows(expected))
    name = "model_save/model.safetensors"
    assert (found / name).read_bytes() == (expected / name).read_bytes()


@pytest.mark.slow
def test_ranks_and_micro_batches_change_nothing(place: Path, trained: Path, tmp_path: Path) -> None:
    words = arguments(place, tmp_path, **on_records(place, trained), micro_batch_tokens=300, data_workers=1)
    done = run_torchrun(2, *words)
    assert done.returncode == 0, done.stderr
    assert_same_losses(tmp_path, trained)


def test_profile_and_results_of_a_growing_batch(place: Path, trained: Path, tmp_path: Path) -> None:
    """The steps after the third are profiled, whatever their batch; the throughput counts their real sequences."""
    words = arguments(place, tmp_path, **on_records(place, trained), profile=True, profile_steps=2)
    assert run_here(*words) == 0
    assert json.loads((tmp_path / "profile" / "profile.json").read_text())["steps"] == [4, 5]
    totals = StepTotals(warmup_steps=10)
    rows = step_rows(tmp_path)
    sequences = sum(row["sequences_per_second"] * row["seconds"] for row in rows)
    assert sequences == pytest.approx(sum(SIZES)) and totals.steps == 0
    throughput = sum(SIZES) / sum(row["seconds"] for row in rows)
    assert f"{throughput:.3f}"[:4] in (tmp_path / "results.yaml").read_text()
    report = tmp_path / "report.html"
    assert run_here("report", str(tmp_path), "--output-file", str(report)) == 0
    assert "batch_ramp_steps" in report.read_text()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"recipe": "intel", "sequences": "packed", "dynamic_masking": True}, "--masked-lm-only"),
        ({"max_steps": 9}, None),
    ],
)
def test_text_for_a_model_with_the_next_sentence_head(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], named: str | None
) -> None:
    code = run_here(*arguments(place, tmp_path, **{"batch_ramp_steps": 4, **changes}))
    assert code == (0 if named is None else 2)
    assert named is None or named in capsys.readouterr().err


def test_records_that_do_not_fit_are_refused(
    task: Task, place: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Packed records for a model with the next-sentence head, and pairs for a recipe of packed records."""
    packed = on_records(place, trained, recipe="intel", dynamic_masking=True)
    assert run_here(*arguments(place, tmp_path / "a", **packed)) == 2
    assert "--masked-lm-only" in capsys.readouterr().err
    assert run_here(*task.arguments(tmp_path / "b", sequences="packed", masked_lm_only=True)) == 2
    assert "--sequences is packed" in capsys.readouterr().err
    evaluated = task.arguments(tmp_path / "c", eval_dir=trained / "records" / "eval", config_file=place / "config.json")
    assert run_here(*evaluated) == 2
    assert "--masked-lm-only" in capsys.readouterr().err
    assert not any((tmp_path / name / "metrics.jsonl").exists() for name in "abc")


def test_a_model_without_the_head_is_trained_on_packed_text(place: Path, tmp_path: Path) -> None:
    """`--masked-lm-only` is enough; `--sequences pairs` keeps pairs."""
    settings = {"recipe": "intel", "masked_lm_only": True, "max_steps": 1, "total_steps": 1, "schedule": None,
                "masking_unit": None, "masking_rate": None, "learning_rate": 1e-3,
                "start_batch_size": None, "batch_ramp_steps": None}  # fmt: skip
    assert run_here(*arguments(place, tmp_path / "packed", **settings)) == 0
    assert records_of(tmp_path / "packed").read(0).next_sentence_label == -1
    assert run_here(*arguments(place, tmp_path / "pairs", **settings, sequences="pairs")) == 0
    assert records_of(tmp_path / "pairs").read(0).next_sentence_label in (0, 1)


def test_a_run_of_hours(task: Task, tmp_path: Path, signal_at: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten steps of a minute, interrupted after the third: rates follow the time trained, and the end stays the end."""
    minute = count()
    monkeypatch.setattr(clock, "time", SimpleNamespace(monotonic=lambda: 60 * next(minute)))
    settings = {"max_steps": None, "warmup_steps": None, "max_hours": 10 / 60, "schedule": "linear", "eval_dir": "none"}
    signal_at(3)
    assert run_here(*task.arguments(tmp_path, **settings)) == 128 + 15
    (checkpoint,) = (tmp_path / "checkpoints").iterdir()
    assert (read_state(checkpoint)[0].step, read_state(checkpoint)[0].seconds) == (3, 180)
    assert run_here(*task.arguments(tmp_path, **settings)) == 0
    rates = [row["learning_rate"] for row in step_rows(tmp_path)]
    assert rates == pytest.approx([0.02 * (1 - step / 10) for step in range(10)])
    assert "--max-hours" in json.loads((tmp_path / "ended.json").read_text())["reason"]
    assert run_here(*task.arguments(tmp_path, **settings)) == 0
    assert len(step_rows(tmp_path)) == 10


@pytest.mark.slow
def test_ranks_agree_on_the_time(task: Task, tmp_path: Path) -> None:
    done = run_torchrun(2, *task.arguments(tmp_path, max_steps=None, warmup_steps=None, max_hours=5 / 3600))
    assert done.returncode == 0, done.stderr
    assert "--max-hours" in json.loads((tmp_path / "ended.json").read_text())["reason"]
