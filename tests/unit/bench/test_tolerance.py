"""Variants that do not compute the same are reported and not timed."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from bert_large.bench import step, train
from bert_large.bench.tolerance import TOLERANCES, Outcome, find_difference
from bert_large.cli import main
from bert_large.engines.eager import EagerEngine

TINY = ("--hidden-size", "32", "--attention-heads", "2", "--layers", "2")
STEP = ("step", *TINY, "--seq-len", "16", "--batch-size", "2", "--engine", "eager", "--rounds", "1")
TRAIN = ("train", *TINY, "--vocab-size", "50", "--global-batch-size", "2", "--data-workers", "0", "--engine", "eager",
         "--rounds", "1")  # fmt: skip
GRADIENTS = {name: torch.randn(4, 3, generator=torch.Generator().manual_seed(seed))
             for seed, name in enumerate(("the input", "query.weight", "output.bias"))}  # fmt: skip
EXPECTED = Outcome(torch.ones(4, 3), GRADIENTS)


def outcome(**changed: torch.Tensor | None) -> Outcome:
    names = {"input": "the input", "query": "query.weight", "bias": "output.bias"}
    return Outcome(EXPECTED.result, GRADIENTS | {names[name]: gradient for name, gradient in changed.items()})


def test_equal_outcomes_agree() -> None:
    assert find_difference(EXPECTED, EXPECTED, 0.0) is None


def test_a_missing_gradient() -> None:
    found = find_difference(outcome(input=None), EXPECTED, 0.1)
    assert found is not None and found.startswith("1 of 3 gradients") and "the input" in found
    zeros = torch.zeros(4, 3)
    found = find_difference(outcome(query=zeros, bias=zeros), EXPECTED, 0.1)
    assert found is not None and found.startswith("2 of 3 gradients") and "query.weight" in found


def test_the_worst_error() -> None:
    off = outcome(query=GRADIENTS["query.weight"] * 1.25, bias=GRADIENTS["output.bias"] * 1.2)
    found = find_difference(off, EXPECTED, 0.1)
    assert found is not None and found.startswith("2 of 4 tensors")
    assert all(text in found for text in ("query.weight", "0.25", "0.1"))
    assert find_difference(off, EXPECTED, 0.26) is None


def test_a_result_that_is_not_a_number() -> None:
    found = find_difference(Outcome(EXPECTED.result * float("nan"), GRADIENTS), EXPECTED, 0.1)
    assert found is not None and "the result, by nan" in found


def test_gradients_that_are_rounding_noise_are_not_compared() -> None:
    """Such as that of the key biases, which shift all scores of a query by the same amount."""
    expected = Outcome(EXPECTED.result, GRADIENTS | {"key.bias": torch.full((3,), 1e-9)})
    for found in (None, torch.zeros(3), torch.full((3,), -1e-8)):
        assert find_difference(Outcome(EXPECTED.result, GRADIENTS | {"key.bias": found}), expected, 1e-4) is None


def test_packed_gradients_are_compared_by_their_norm() -> None:
    packed = GRADIENTS["query.weight"].reshape(3, 2, 2)
    assert find_difference(outcome(query=packed), EXPECTED, 1e-6) is None
    assert find_difference(outcome(query=packed * 1.1), EXPECTED, 1e-2) is not None


class _Without(torch.autograd.Function):
    """The identity without a backward pass."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor) -> torch.Tensor:
        return values.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> None:
        return None


class _Wrong(EagerEngine):
    """The eager engine with a feed-forward block whose input is changed."""

    def __init__(self, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.name, self._change = "wrong", change

    def feed_forward_block(self, batch: Any, hidden: torch.Tensor, *arguments: Any) -> torch.Tensor:
        return super().feed_forward_block(batch, self._change(hidden), *arguments)


WRONG = {
    "skips backward": (_Without.apply, "gradients are missing or 0"),
    "rounds to bf16": (lambda hidden: hidden.bfloat16().float(), " tensors differ"),
}


@pytest.mark.parametrize("benchmark", [step, train])
@pytest.mark.parametrize("fault", WRONG)
def test_a_wrong_variant_is_not_timed(
    benchmark: Any, fault: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    change, message = WRONG[fault]
    resolve = benchmark.resolve_compared

    def resolve_with_wrong(engine: str, compare: list[str], precision: str) -> Any:
        compared = resolve(engine, [], precision)
        return type(compared)(compared.engine, [_Wrong(change)], [])

    monkeypatch.setattr(benchmark, "resolve_compared", resolve_with_wrong)
    arguments = STEP if benchmark is step else TRAIN
    assert main(["bench", *arguments, "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert message in results["not_comparable"]["wrong"]
    assert results["compared"] == [] and "wrong" not in results["seconds"]
    assert not any(name.startswith(("wrong_", "over_wrong")) for name in results)
    assert main(["bench", *arguments]) == 0
    assert f"wrong: not comparable: {results['not_comparable']['wrong']}" in capsys.readouterr().out


def test_a_wrong_engine_under_test_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    resolve = step.resolve_compared

    def resolve_wrong(*arguments: Any) -> Any:
        compared = resolve(*arguments)
        return type(compared)(_Wrong(_Without.apply), [], [])

    monkeypatch.setattr(step, "resolve_compared", resolve_wrong)
    assert main(["bench", *STEP, "--compare"]) != 0
    message = capsys.readouterr().err
    assert "the wrong engine" in message and "missing or 0" in message


def test_rounding_to_bf16_is_allowed_in_bf16() -> None:
    rounded = Outcome(EXPECTED.result, {name: gradient.bfloat16().float() for name, gradient in GRADIENTS.items()})
    assert find_difference(rounded, EXPECTED, TOLERANCES["bf16"]) is None
    assert find_difference(rounded, EXPECTED, TOLERANCES["fp32"]) is not None
