"""`bert-large bench checkpoint` on a tiny model: its figures fit each other, and nothing is left behind."""

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


def test_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(tmp_path / "new", "--step-seconds", "0.5", "--save-every", "10", "--json") == 0
    assert list((tmp_path / "new").iterdir()) == []
    figures = json.loads(capsys.readouterr().out)
    shape = ModelConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=128
    )
    parameters = sum(its.numel() for its in BertForPreTraining(shape, EagerEngine()).parameters())
    assert (figures["parameters"], figures["checkpoint_bytes"]) == (parameters, parameters * 4 * 3)
    save = figures["seconds"]["save"]
    assert len(save["rounds"]) == 3
    for suffix, seconds in (("", save["minimum"]), ("_median", save["median"])):
        assert figures[f"blocking_seconds{suffix}"] == seconds
        assert figures[f"bytes_per_second{suffix}"] == pytest.approx(parameters * 12 / seconds)
        assert figures[f"share_of_time{suffix}"] == pytest.approx(seconds / (seconds + 5))


def test_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(tmp_path) == 0
    printed = capsys.readouterr().out
    assert "GB/s, max" in printed and "training waits for all of save" in printed and "% of the time" not in printed


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "fast"])
def test_wrong_seconds_of_a_step(seconds: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        bench(tmp_path, f"--step-seconds={seconds}")
    assert caught.value.code == 2
    assert f"argument --step-seconds: {seconds!r}, expected seconds > 0" in capsys.readouterr().err
