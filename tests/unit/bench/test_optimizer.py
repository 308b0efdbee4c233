"""The optimizer over its memory traffic: what is timed, and the bound."""

from __future__ import annotations

import pytest
from bert_large.bench import optimizer
from bert_large.bench.optimizer import BYTES_PER_PARAMETER, measure_optimizer
from bert_large.config import OptimConfig
from bert_large.optim.build import build_optimizer, clip_gradients

from tests.support.models import tiny_model


def test_figures_are_consistent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizer, "COPY_BYTES", 1 << 16)
    model = tiny_model()
    for parameter in model.parameters():
        parameter.grad = parameter.detach() * 0 + 1e-6
    lamb = build_optimizer(model, OptimConfig(learning_rate=1e-3, total_steps=10))
    figures = measure_optimizer(model, lamb, max_norm=0.5, rounds=2, warmups=1)

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
    # Gradients were far below the limit, and clipping scaled all the same.
    assert clip_gradients(list(model.parameters()), float("inf")) == pytest.approx(0.5, rel=1e-4)
