"""The optimizer's time over its memory traffic."""

from __future__ import annotations

import pytest
from bert_large.optim.lamb import Lamb
from optimizer import BYTES_PER_PARAMETER, OptimizerOptions, measure, render


def test_results_are_consistent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every round clips and steps; the bound follows from the bandwidth of the copy."""
    scales: list[float] = []
    step = Lamb.step

    def record_scale(self: Lamb) -> None:
        scales.append(self.gradient_scale)
        step(self)

    monkeypatch.setattr(Lamb, "step", record_scale)
    options = OptimizerOptions(engine="eager", layers=1, hidden_size=32, vocab_size=50, rounds=2, copy_bytes=1 << 16)
    results = measure(options)
    count, seconds = results["parameters"], results["seconds"]
    for suffix, which in (("", "minimum"), ("_median", "median")):
        bandwidth = 2 * (1 << 16) / seconds["copy"][which]
        assert results[f"copy_bytes_per_second{suffix}"] == pytest.approx(bandwidth)
        bound = BYTES_PER_PARAMETER * count / bandwidth
        assert results[f"optimizer_over_bound{suffix}"] == pytest.approx(seconds["optimizer"][which] / bound)
        both = seconds["optimizer"][which] + seconds["clip"][which]
        assert results[f"clip_and_optimizer_over_bound{suffix}"] == pytest.approx(both / bound)
    assert len(scales) == 3
    assert render(results).count("\n") == 5
