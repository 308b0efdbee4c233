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
    rounds = list(zip(*(seconds[name]["rounds"] for name in ("copy", "optimizer", "clip")), strict=True))
    bandwidths = [2 * (1 << 16) / copy for copy, _, _ in rounds]
    bounds = [BYTES_PER_PARAMETER * count / bandwidth for bandwidth in bandwidths]
    expected = {  # the median of two rounds is their mean
        "copy_bytes_per_second": sum(bandwidths) / 2,
        "optimizer_over_bound": sum(step / bound for (_, step, _), bound in zip(rounds, bounds, strict=True)) / 2,
        "clip_and_optimizer_over_bound": sum(
            (step + clip) / bound for (_, step, clip), bound in zip(rounds, bounds, strict=True)
        ) / 2,
    }  # fmt: skip
    assert {name: results[name]["median"] for name in expected} == pytest.approx(expected)
    assert len(scales) == 3
    assert render(results).count("\n") == 5
