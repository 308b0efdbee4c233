"""The sequence of loss scales, compared with PyTorch's `GradScaler`."""

from __future__ import annotations

import pytest
import torch
from bert_large.train import state
from bert_large.train.state import LossScale


def test_constants_equal_pytorchs() -> None:
    scaler = torch.amp.GradScaler("cpu")
    assert state.INITIAL_SCALE == LossScale().scale == scaler.get_scale()
    assert scaler.get_growth_interval() == state.GROWTH_INTERVAL
    assert (scaler.get_growth_factor(), scaler.get_backoff_factor()) == (2.0, 0.5)


def test_the_sequence_equals_pytorchs(monkeypatch: pytest.MonkeyPatch) -> None:
    """With updates and overflows mixed, and doubling after 3 updates in a row, the scale is equal after each step."""
    monkeypatch.setattr(state, "GROWTH_INTERVAL", 3)
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    theirs, ours = torch.amp.GradScaler("cpu", growth_interval=3), LossScale()
    outcomes = [True, True, True, True, False, True, True, False, False, True, True, True, True, True, True, True]
    for is_finite in outcomes:
        theirs.scale(torch.zeros(()))  # creates its state at the first use
        weight.grad = torch.full((1,), 1.0 if is_finite else float("inf"))
        theirs.step(optimizer)
        theirs.update()
        following = ours.after_update() if is_finite else ours.after_overflow()
        assert following is not None
        ours = following
        assert ours.scale == theirs.get_scale()


def test_it_is_never_below_1() -> None:
    """Sixteen halvings reach 1; a seventeenth is refused."""
    ours = LossScale()
    for _ in range(16):
        following = ours.after_overflow()
        assert following is not None
        ours = following
    assert ours == LossScale(1.0, 0)
    assert ours.after_overflow() is None
