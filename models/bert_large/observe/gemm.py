"""What benchmarks compare with: only the matrix products of an encoder's linear layers, by PyTorch.

A lower bound where an engine uses PyTorch's products.

Each linear layer computes `x @ W.T` in the forward pass, and `dy @ W` and `dy.T @ x` in the backward pass, each with
`torch.mm` into memory that is already allocated. `torch.addmm` with a bias, `functional.linear`, oneDNN's own linear
operation and accumulation into the weight's gradient (`addmm_`) were tried on an Intel machine with AVX-512: none was
faster by more than 1%. Products are computed by the faster of PyTorch's two libraries (`bert_large.matmul`). Query, key
and value can be one product (hidden to 3 * hidden) or three. Which form is faster depends on the machine, so both are
run and the faster one is used.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from bert_large.matmul import fastest_float32
from bert_large.observe.timing import Variant, alternate


@dataclass(frozen=True)
class Product:
    """Operands and results of one linear layer for T tokens."""

    x: torch.Tensor
    """[T, inputs]"""
    weight: torch.Tensor
    """[outputs, inputs]"""
    weight_gradient: torch.Tensor
    """[outputs, inputs]"""
    y: torch.Tensor
    """[T, outputs]"""
    y_gradient: torch.Tensor
    """[T, outputs]"""
    x_gradient: torch.Tensor
    """[T, inputs]"""

    def forward(self) -> None:
        """y = x @ W.T"""
        torch.mm(self.x, self.weight.t(), out=self.y)

    def backward(self) -> None:
        """dx = dy @ W, dW = dy.T @ x"""
        torch.mm(self.y_gradient, self.weight, out=self.x_gradient)
        torch.mm(self.y_gradient.t(), self.x, out=self.weight_gradient)


class LinearProducts:
    """The products of all linear layers of an encoder, forward and backward.

    As in training, each layer has its own weights, weight gradients and inputs. The other results share memory, which
    makes this bound a little faster than a real encoder's products can be.
    """

    def __init__(self, *, tokens: int, hidden: int, intermediate: int, layers: int, dtype: torch.dtype) -> None:
        self.tokens, self.layers = tokens, layers
        generator = torch.Generator().manual_seed(0)

        def draw(*shape: int) -> torch.Tensor:
            return torch.empty(shape, dtype=dtype).normal_(0.0, 0.02, generator=generator)

        # (inputs, outputs, number of products in the separate form)
        sizes = [(hidden, 3 * hidden, 3), (hidden, hidden, 1), (hidden, intermediate, 1), (intermediate, hidden, 1)]
        scratch: dict[tuple[str, int], torch.Tensor] = {}

        def shared(use: str, columns: int) -> torch.Tensor:
            if (use, columns) not in scratch:
                scratch[use, columns] = draw(tokens, columns)
            return scratch[use, columns]

        def product(x: torch.Tensor, weight: torch.Tensor, gradient: torch.Tensor) -> Product:
            outputs, inputs = weight.shape
            return Product(
                x, weight, gradient, shared("y", outputs), shared("y_gradient", outputs), shared("x_gradient", inputs)
            )

        self.fused: list[Product] = []
        self.separate: list[Product] = []
        for _ in range(layers):
            for inputs, outputs, parts in sizes:
                x, weight = draw(tokens, inputs), draw(outputs, inputs)
                gradient = torch.zeros_like(weight)
                self.fused.append(product(x, weight, gradient))
                pairs = zip(weight.chunk(parts), gradient.chunk(parts), strict=True)
                self.separate += [product(x, part, part_gradient) for part, part_gradient in pairs]
        self.multiplied = sum(tokens * product.weight.numel() for product in self.fused)

    @property
    def flops(self) -> int:
        """Floating-point operations of one run: three products, each a multiplication and an addition."""
        return 3 * 2 * self.multiplied

    @staticmethod
    def run(products: list[Product]) -> None:
        """Compute `fused` or `separate`: all layers forward, then backward in reverse order."""
        with fastest_float32():
            for product in products:
                product.forward()
            for product in reversed(products):
                product.backward()

    def variants(self, prefix: str = "") -> dict[str, Variant]:
        """Return both forms for `alternate`, named `prefix` + "fused" and `prefix` + "separate"."""
        return {
            f"{prefix}fused": Variant(lambda round_: self.run(self.fused)),
            f"{prefix}separate": Variant(lambda round_: self.run(self.separate)),
        }


def measure_flops_per_second(*, tokens: int, hidden: int, intermediate: int, dtype: torch.dtype) -> float:
    """Return the rate of one layer's products: the best of five alternating rounds of the faster form."""
    products = LinearProducts(tokens=tokens, hidden=hidden, intermediate=intermediate, layers=1, dtype=dtype)
    timings = alternate(products.variants(), rounds=5, warmups=1, visible=False)
    return products.flops / min(timing.minimum for timing in timings.values())
