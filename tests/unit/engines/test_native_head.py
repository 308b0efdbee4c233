"""The native engine's masked-LM head: blocks of tokens, correct predictions, evaluation, losses that are not finite."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from bert_large.engines.native import NativeEngine

from tests.support.operations import batch_of, layer
from tests.unit.engines.native_cases import EAGER, check, head_case


@pytest.mark.parametrize("activation", ["gelu", "gelu_pytorch_tanh"])
@pytest.mark.parametrize("vocab_size", [1, 15, 16, 17, 1003])
def test_masked_head(native: NativeEngine, vocab_size: int, activation: str) -> None:
    check(native, head_case(23, vocab_size=vocab_size, activation=activation))


@pytest.mark.parametrize("masked", [0, 1, 511, 512, 513, 1100])
def test_blocks_of_masked_tokens(native: NativeEngine, masked: int) -> None:
    """From none to more than one block."""
    check(native, head_case(masked))


def test_right_predictions(native: NativeEngine) -> None:
    """The same number as on eager, where some are right and some are not; the first of equal logits is predicted."""
    batch = dataclasses.replace(batch_of([64]), masked_positions=torch.arange(60), masked_labels=torch.arange(60) % 3)
    leaves = head_case(1, vocab_size=3).leaves(torch.float32)
    for tie in (False, True):
        if tie:
            leaves["words"], leaves["bias"] = torch.zeros(3, 40), torch.zeros(3)
        parts = (leaves["hidden"], layer(leaves, "transform"), "gelu", layer(leaves, "norm"))
        counts = [int(engine.masked_head(batch, *parts, leaves["words"], leaves["bias"])[1])
                  for engine in (native, EAGER)]  # fmt: skip
        assert counts[0] == counts[1] and 0 < counts[0] < 60
    assert counts[0] == 20


def test_the_head_in_evaluation(native: NativeEngine) -> None:
    """The same loss without computing gradients."""
    case = head_case(700)
    with torch.no_grad():
        found = case.apply(native, case.leaves(torch.float32))
        expected = case.apply(EAGER, case.leaves(torch.float64))
    assert not found.requires_grad
    assert float(found) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["words", "bias"])
def test_a_loss_that_is_not_finite(native: NativeEngine, name: str, value: float) -> None:
    """From one element of a word that no token has as its label: the loss is not finite, as on eager."""
    case = head_case(5, vocab_size=100)
    case.values[name][50] = value
    assert not bool(torch.isfinite(case.apply(EAGER, case.leaves(torch.float64))))
    assert not bool(torch.isfinite(case.apply(native, case.leaves(torch.float32))))
