"""All engines compute the same model: losses, correct predictions and gradients against eager in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from bert_large.engines import available_engines, resolve_engine
from bert_large.engines.eager import EagerEngine

from tests.support.whole_model import losses_and_gradients, worst_error

# Relative, norm of the difference over the norm.
TOLERANCE = 5e-6
BF16_TOLERANCE = 0.03

engines = pytest.mark.parametrize("name", available_engines())


@engines
@pytest.mark.parametrize("dropout", [False, True], ids=["", "dropout"])
@pytest.mark.parametrize("activation", ["gelu", "gelu_pytorch_tanh"])
@pytest.mark.parametrize("micro_batches", [1, 3])
def test_single_precision(name: str, dropout: bool, activation: str, micro_batches: int) -> None:
    """Ragged records of 6 to 150 tokens, in one micro-batch and in three, against the reference in one."""
    engine = resolve_engine(name)[0]
    found = losses_and_gradients(
        engine, torch.float32, dropout=dropout, hidden_act=activation, micro_batches=micro_batches
    )
    expected = losses_and_gradients(
        EagerEngine(), torch.float64, dropout=dropout, hidden_act=activation, micro_batches=1
    )
    assert found["sums"][[1, 3]].tolist() == expected["sums"][[1, 3]].tolist()
    assert worst_error(found, expected) < (TOLERANCE,)
    for gradient in (value for key, value in found.items() if key.endswith("key.bias")):
        assert float(gradient.abs().max()) < 1e-4


@engines
@pytest.mark.parametrize("dropout", [False, True], ids=["", "dropout"])
def test_bf16(name: str, dropout: bool) -> None:
    found = losses_and_gradients(resolve_engine(name)[0], torch.bfloat16, dropout=dropout)
    expected = losses_and_gradients(EagerEngine(), torch.float64, dropout=dropout)
    assert worst_error(found, expected) < (BF16_TOLERANCE,)
    assert all(value.dtype == torch.float32 for key, value in found.items() if key != "sums")
    assert float(found["sums"][0]) == pytest.approx(float(expected["sums"][0]), rel=5e-3)


@engines
def test_the_comparison_can_fail(name: str) -> None:
    """Without dropout, or with the other form of GELU, results are far outside of the tolerances."""
    engine = resolve_engine(name)[0]
    expected = losses_and_gradients(EagerEngine(), torch.float64)
    changes: list[dict[str, Any]] = [{"dropout": False}, {"hidden_act": "gelu"}]
    for change in changes:
        found = losses_and_gradients(engine, torch.float32, **change)
        assert worst_error(found, expected) > (10 * TOLERANCE,)
