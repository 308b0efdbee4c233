"""Settings, seeds and figures over seeds."""

from __future__ import annotations

import math
import sys

import pytest
from bert_large.errors import InputError
from bert_large.finetune.command import parse_seeds
from bert_large.finetune.results import best_seed, summarize, table_lines
from bert_large.finetune.settings import FinetuneSettings

from tests.support.runs import run_here


def test_every_problem_is_told_at_once() -> None:
    with pytest.raises(InputError) as error:
        FinetuneSettings(epochs=0, learning_rate=math.nan, warmup_share=1.0, weight_decay=-1, precision="fp16")
    for text in (
        "epochs is 0, expected > 0",
        "learning_rate is nan, expected > 0",
        "warmup_share is 1.0, expected 0 <= share < 1",
        "weight_decay is -1, expected >= 0",
        "precision is 'fp16', expected one of fp32, avx-fp32, bf16, bf32",
    ):
        assert text in str(error.value)


def test_seeds() -> None:
    assert parse_seeds("3,1,2") == (3, 1, 2)
    assert parse_seeds("42") == (42,)
    for text in ("", "1,1", "1;2", "-1", "1,", str(2**32)):
        with pytest.raises(InputError, match="--seeds is "):
            parse_seeds(text)


def test_packages_that_are_missing_are_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)
    assert run_here("finetune", "--task", "rte", "--checkpoint-dir", "m", "--output-dir", "o") == 2
    error = capsys.readouterr().err
    assert "packages that are missing (import of accelerate halted" in error
    assert "pip install 'bert-large[finetune]'" in error
    assert "FINETUNE=1 ./build.sh" in error


def test_help_tells_where_squad_differs(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_here("finetune", "--help") == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "squad2 are others: max seq length 384, batch size 24, learning rate 3e-05, epochs 2." in printed


def seed(number: int, accuracy: float) -> dict[str, object]:
    return {"seed": number, "train_seconds": 2.0, "train_samples_per_second": 8.0,
            "metrics": {"validation": {"accuracy": accuracy}}}  # fmt: skip


def test_mean_and_deviation_over_seeds() -> None:
    """0.5, 0.6 and 0.8: mean 19/30; squared deviations 16/900, 1/900 and 25/900 over two."""
    seeds = [seed(1, 0.5), seed(2, 0.6), seed(3, 0.8)]
    figures = summarize(seeds)["validation"]["accuracy"]
    assert figures == pytest.approx({"mean": 19 / 30, "standard_deviation": math.sqrt(42 / 1800)})
    assert best_seed(seeds, "accuracy") == 3
    lines = list(table_lines("sst2", {"seeds": seeds, "summary": summarize(seeds)}))
    assert lines[1].split() == ["validation", "accuracy", "0.6333", "0.1528", "0.5000", "0.6000", "0.8000"]


def test_one_seed_has_no_deviation() -> None:
    seeds = [seed(1, 0.5)]
    assert summarize(seeds)["validation"]["accuracy"] == {"mean": 0.5, "standard_deviation": None}
    assert list(table_lines("sst2", {"seeds": seeds, "summary": summarize(seeds)}))[1].split()[3] == "-"


def test_the_first_of_equal_seeds_is_the_best() -> None:
    assert best_seed([seed(4, 0.5), seed(2, 0.5)], "accuracy") == 4
