"""Settings, seeds and metrics over seeds."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
from bert_large.cli import build_parser
from bert_large.errors import InputError
from bert_large.finetune.command import parse_seeds
from bert_large.finetune.results import best_seed, results_table, summarize
from bert_large.finetune.settings import FinetuneSettings

from tests.support.runs import PROJECT, options, run_here


def test_all_problems_are_reported_at_once() -> None:
    with pytest.raises(InputError) as error:
        FinetuneSettings(epochs=0, learning_rate=math.nan, warmup_share=1.0, weight_decay=math.inf, precision="fp16")
    for text in ("--epochs is 0", "--learning-rate is nan", "--warmup-share is 1.0", "--weight-decay is inf",
                 "--precision is 'fp16'"):  # fmt: skip
        assert text in str(error.value)


def test_a_learning_rate_that_is_0_in_fp32_is_refused() -> None:
    with pytest.raises(InputError, match="--learning-rate is 1e-300"):
        FinetuneSettings(learning_rate=1e-300)


def test_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """The script's names are read; a number of epochs may be written as 3.0."""
    variables = {"TASK": "rte", "CHECKPOINT_DIR": "m", "OUTPUT_DIR": "o", "DATASET_DIR": "d", "EPOCHS": "3.0",
                 "batch_size": "16", "SEEDS": "1,2", "PRECISION": "BF16"}  # fmt: skip
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    parsed = build_parser("finetune").parse_args(["finetune", "--from-environment", "--seed", "7"])
    assert (parsed.data_dir, parsed.epochs, parsed.batch_size) == (Path("d"), 3, 16)
    assert (parsed.precision, parsed.seed, parsed.seeds, parsed.learning_rate) == ("bf16", "7", None, None)


def test_seeds() -> None:
    assert parse_seeds("3,1,2") == (3, 1, 2)
    assert parse_seeds("42") == (42,)
    for text in ("", "1,1", "1;2", "-1", "1,", str(2**32)):
        with pytest.raises(InputError, match="--seeds"):
            parse_seeds(text)


def test_whole_numbers_may_have_a_decimal_point() -> None:
    parser = build_parser("finetune")
    required = ["finetune", "--task", "rte", "--checkpoint-dir", "m", "--output-dir", "o"]
    assert parser.parse_args([*required, "--epochs", "3.0"]).epochs == 3
    for text in ("2.5", "nan", "inf", "x"):
        with pytest.raises((SystemExit, InputError)):
            FinetuneSettings(epochs=parser.parse_args([*required, "--epochs", text]).epochs)


@pytest.mark.parametrize(
    "name",
    ["epochs", "learning_rate", "warmup_share", "weight_decay", "max_train_samples", "seeds", "seed", "save_every",
     "resume"],
)  # fmt: skip
def test_settings_of_training_are_refused_for_predictions_alone(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As options and as variables; settings that predictions use are accepted."""
    parse = build_parser("finetune").parse_args
    words = ["finetune", *options(task="rte", checkpoint_dir="m", output_dir="o", batch_size=8, max_eval_samples=9)]
    value = {"learning_rate": "1e-5", "warmup_share": "0.5", "resume": "never"}.get(name, "1")
    given = options(**{name: value})
    assert getattr(parse([*words, *given]), name) is not None
    assert parse([*words, "--predict-only"]).batch_size == 8
    with pytest.raises(SystemExit) as caught:
        parse([*words, *given, "--predict-only"])
    assert caught.value.code == 2 and f"{given[0]} is" in capsys.readouterr().err
    monkeypatch.setenv(name.upper(), value)
    with pytest.raises(SystemExit) as caught:
        parse([*words, "--predict-only", "--from-environment"])
    assert caught.value.code == 2 and f"{name.upper()} is" in capsys.readouterr().err


def test_missing_packages_are_reported(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """With a command that installs them from the project's folder, and the way for containers."""
    monkeypatch.setitem(sys.modules, "accelerate", None)
    assert run_here("finetune", "--task", "rte", "--checkpoint-dir", "m", "--output-dir", "o") == 2
    error = capsys.readouterr().err
    assert "accelerate" in error and "FINETUNE=1 ./build.sh" in error
    assert f"pip install -e {PROJECT}[finetune]" in error.replace("'", "")


def test_help_has_the_defaults_of_squad(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_here("finetune", "--help") == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "squad2" in printed and "max seq length 384, batch size 24, learning rate 3e-05, epochs 2" in printed


def seed(number: int, accuracy: float) -> dict[str, object]:
    return {"seed": number, "train_seconds": 2.0, "train_samples_per_second": 8.0,
            "metrics": {"validation": {"accuracy": accuracy}}}  # fmt: skip


def test_mean_and_deviation_over_seeds() -> None:
    """0.5, 0.6 and 0.8: mean 19/30; squared deviations 16/900, 1/900 and 25/900 over two."""
    seeds = [seed(1, 0.5), seed(2, 0.6), seed(3, 0.8)]
    found = summarize(seeds)["validation"]["accuracy"]
    assert found == pytest.approx({"mean": 19 / 30, "standard_deviation": math.sqrt(42 / 1800)})
    assert best_seed(seeds, "accuracy") == 3
    lines = results_table("sst2", {"seeds": seeds, "summary": summarize(seeds)}).splitlines()
    assert lines[1].split() == ["validation", "accuracy", "0.6333", "0.1528", "0.5000", "0.6000", "0.8000"]


def test_one_seed_has_no_deviation() -> None:
    seeds = [seed(1, 0.5)]
    assert summarize(seeds)["validation"]["accuracy"] == {"mean": 0.5, "standard_deviation": None}
    assert results_table("sst2", {"seeds": seeds, "summary": summarize(seeds)}).splitlines()[1].split()[3] == "-"


def test_the_first_of_equal_seeds_is_the_best() -> None:
    assert best_seed([seed(4, 0.5), seed(2, 0.5)], "accuracy") == 4
