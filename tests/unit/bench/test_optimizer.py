"""The optimizer over its memory traffic: what is timed, and the bound."""

from __future__ import annotations

import pytest
from bert_large.bench import optimizer
from bert_large.bench.optimizer import BYTES_PER_PARAMETER, measure_optimizer
from bert_large.config.training import OptimConfig
from bert_large.optim.build import build_optimizer
from bert_large.optim.lamb import Lamb

from tests.support.models import tiny_model


def test_figures_are_consistent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizer, "COPY_BYTES", 1 << 16)
    model = tiny_model()
    for parameter in model.parameters():
        parameter.grad = parameter.detach() * 0 + 1e-6
    lamb = build_optimizer(model, OptimConfig(learning_rate=1e-3, total_steps=10))
    figures = measure_optimizer(model, lamb, max_norm=1e-9, rounds=2, warmups=1)

    count = sum(parameter.numel() for parameter in model.parameters())
    rounds = figures["optimizer_rounds"]
    assert figures["parameters"] == count
    assert figures["copy_bytes_per_second"] == pytest.approx(2 * (1 << 16) / rounds["copy"]["minimum"])
    bound = BYTES_PER_PARAMETER * count / figures["copy_bytes_per_second"]
    assert figures["optimizer_bound_seconds"] == pytest.approx(bound)
    assert figures["optimizer_over_bound"] == pytest.approx(rounds["optimizer"]["minimum"] / bound)
    both = rounds["optimizer"]["minimum"] + rounds["clip"]["minimum"]
    assert figures["clip_and_optimizer_over_bound"] == pytest.approx(both / bound)
    assert {state["step"] for state in lamb.state.values()} == {3}
    # Clipping was told of the norm: the update it was timed with scaled the gradients.
    assert isinstance(lamb, Lamb)
    assert lamb.gradient_scale == pytest.approx(1e-9 / (1e-6 * count**0.5), rel=1e-4)
