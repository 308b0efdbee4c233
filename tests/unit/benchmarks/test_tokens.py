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
    rounds = [
        {name: timing["rounds"][round_] / int(name) for name, timing in results["seconds"].items()}
        for round_ in range(2)
    ]
    distances = []
    for name in ("32", "64", "128"):
        assert results["seconds_per_token"][name]["median"] == pytest.approx(sum(costs[name] for costs in rounds) / 2)
        over_mean = sum(3 * costs[name] / sum(costs.values()) for costs in rounds) / 2
        assert results["over_mean"][name]["median"] == pytest.approx(over_mean)
        distances.append(abs(over_mean - 1))
    assert results["nonlinearity"] == pytest.approx(max(distances))
    assert tokens.render(results).count("\n") == 5


def test_tokens_must_be_whole_sequences() -> None:
    with pytest.raises(InputError, match=r"--tokens is 100\b.*--seq-len 128"):
        tokens.main([*TINY, "--tokens", "100"])
