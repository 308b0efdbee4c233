"""The benchmark of products in bf16: its ways compute the same, and its metrics follow from the seconds."""

from __future__ import annotations

import json

import products
import pytest
import torch
from bert_large.engines.native.build import load_kernels


def test_ways_compute_the_same() -> None:
    """All write to the same tensor, which they return."""
    results: dict[str, torch.Tensor] = {}
    load_kernels()
    ways = products.ways_of_layer(40, 64, 96)
    for product in ("forward", "input gradient"):
        for name, run in ways[product].items():
            result = run()
            assert isinstance(result, torch.Tensor)
            results[name] = result.clone()
        torch.testing.assert_close(results["own"], results["torch"], rtol=2**-7, atol=1e-5)


def test_metrics(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--tokens", "40", "--hidden-size", "64", "--rounds", "2", "--json"]
    assert products.main(options) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["intermediate_size"] == 256 and len(found["products"]) == 4 * 4 + 1
    product = found["products"]["output: weight gradient"]
    assert set(product["own_over"]) == {"torch", "torch, copy", "torch, added"}
    own = product["seconds"]["own"]["rounds"]
    rates = [2 * 40 * 256 * 64 / 1e9 / seconds for seconds in own]
    assert product["gflops_per_second"]["own"]["median"] == pytest.approx(sum(rates) / 2)
    ratios = [a / b for a, b in zip(own, product["seconds"]["torch"]["rounds"], strict=True)]
    assert product["own_over"]["torch"]["median"] == pytest.approx(sum(ratios) / 2)
    assert products.main(options[:-1]) == 0
    assert "output: weight gradient" in capsys.readouterr().out
