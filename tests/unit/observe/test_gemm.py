"""The products equal those of linear layers, forward and backward, in both forms."""

from __future__ import annotations

import pytest
import torch
from bert_large.observe import gemm
from bert_large.observe.gemm import LinearProducts, measure_flops_per_second
from bert_large.observe.timing import Timing


def test_flops() -> None:
    """Per layer and token 4 hidden^2 + 2 hidden * intermediate weights, three products, two operations."""
    products = LinearProducts(tokens=10, hidden=8, intermediate=24, layers=3, dtype=torch.float32)
    assert products.flops == 3 * 10 * (4 * 8 * 8 + 2 * 8 * 24) * 3 * 2


@pytest.mark.parametrize("form", ["fused", "separate"])
def test_products_are_those_of_the_linear_layers(form: str) -> None:
    products = LinearProducts(tokens=10, hidden=8, intermediate=24, layers=2, dtype=torch.float64)
    chosen = getattr(products, form)
    shapes = [tuple(product.weight.shape) for product in chosen[: len(chosen) // 2]]
    attention = [(24, 8)] if form == "fused" else [(8, 8)] * 3
    assert shapes == [*attention, (8, 8), (24, 8), (8, 24)]
    for product in chosen:
        product.forward()
        torch.testing.assert_close(product.y, product.x @ product.weight.T)
        product.backward()
        torch.testing.assert_close(product.x_gradient, product.y_gradient @ product.weight)
    LinearProducts.run(chosen)
    for product in chosen:
        torch.testing.assert_close(product.weight_gradient, product.y_gradient.T @ product.x)


def test_both_forms_have_the_same_weights() -> None:
    products = LinearProducts(tokens=4, hidden=8, intermediate=16, layers=1, dtype=torch.float32)
    three = torch.cat([product.weight for product in products.separate[:3]])
    assert torch.equal(three, products.fused[0].weight)
    assert len({product.x.data_ptr() for product in products.separate[:3]}) == 1


def test_rate_is_of_the_faster_form(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {"fused": [4.0, 2.0], "separate": [3.0, 3.0]}

    def alternate(variants: dict[str, object], **options: object) -> dict[str, Timing]:
        assert list(variants) == list(seconds)
        return {name: Timing(values) for name, values in seconds.items()}

    monkeypatch.setattr(gemm, "alternate", alternate)
    rate = measure_flops_per_second(tokens=10, hidden=8, intermediate=24, dtype=torch.float32)
    assert rate == 10 * (4 * 8 * 8 + 2 * 8 * 24) * 3 * 2 / 2.0
