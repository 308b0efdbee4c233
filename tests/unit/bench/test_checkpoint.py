"""`bert-large bench checkpoint` on a tiny model: consistent results, and no files left behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bert_large.cli import main
from bert_large.config.model import ModelConfig
from bert_large.engines.eager import EagerEngine
from bert_large.model.bert import BertForPreTraining

TINY = ("--hidden-size", "32", "--attention-heads", "2", "--layers", "1", "--vocab-size", "50", "--engine", "eager")


def bench(folder: Path, *arguments: str) -> int:
    return main(["bench", "checkpoint", *TINY, "--output-dir", str(folder), "--rounds", "3", *arguments])


def test_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(tmp_path / "new", "--step-seconds", "0.5", "--save-every", "10", "--json") == 0
    assert list((tmp_path / "new").iterdir()) == []
    results = json.loads(capsys.readouterr().out)
    shape = ModelConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=128
    )
    parameters = sum(weight.numel() for weight in BertForPreTraining(shape, EagerEngine()).parameters())
    assert (results["parameters"], results["checkpoint_bytes"]) == (parameters, parameters * 4 * 3)
    save = results["seconds"]["save"]
    assert len(save["rounds"]) == 3
    seconds = save["median"]  # of three rounds, so that each of the following has its median in the same round
    assert results["blocking_seconds"]["median"] == seconds
    assert results["bytes_per_second"]["median"] == pytest.approx(parameters * 12 / seconds)
    assert results["share_of_time"]["median"] == pytest.approx(seconds / (seconds + 5))


def test_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(tmp_path) == 0
    printed = capsys.readouterr().out
    assert "GB/s, median" in printed and "% of the time" not in printed


def test_a_folder_that_cannot_be_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert bench(tmp_path / "file/new") == 2
    assert str(tmp_path / "file/new") in capsys.readouterr().err
