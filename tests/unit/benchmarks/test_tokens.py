"""Time per token in steps of different sizes."""

from __future__ import annotations

import json

import pytest
import tokens
from bert_large.errors import InputError

TINY = ("--hidden-size", "32", "--attention-heads", "2", "--layers", "1", "--vocab-size", "50", "--engine", "eager")


def test_results_are_consistent(capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--seq-len", "16", "--tokens", "32", "64", "128", "--micro-batch-tokens", "64", "--rounds", "2")
    assert tokens.main([*TINY, *options, "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    costs = results["seconds_per_token"]
    assert {name: cost * int(name) for name, cost in costs.items()} == pytest.approx(
        {name: timing["minimum"] for name, timing in results["seconds"].items()}
    )
    mean = sum(costs.values()) / 3
    assert results["nonlinearity"] == pytest.approx(max(abs(cost - mean) for cost in costs.values()) / mean)
    assert tokens.render(results).count("\n") == 5


def test_tokens_must_be_whole_sequences() -> None:
    with pytest.raises(InputError, match=r"--tokens is 100\b.*--seq-len 128"):
        tokens.main([*TINY, "--tokens", "100"])
