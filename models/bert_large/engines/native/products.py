"""Matrix products of linear layers in bfloat16 by the package's own kernels, which depend on no number of tokens.

PyTorch computes them through oneDNN, which compiles a kernel for each new number of tokens. The kernels here read
weights that have been copied into the order of AMX tiles or AVX-512 BF16 vectors (`csrc/products.h`).
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from bert_large.engines.native.build import load_kernels

BLOCK = 32
"""Rows and columns of the blocks that packed weights consist of; zeros fill those that the weight does not fill."""
_kernels = torch.ops.bert_large


@functools.cache
def has_products() -> bool:
    """Return whether this CPU has instructions for products of bfloat16 numbers."""
    load_kernels()
    return _kernels.has_products()


class PackedWeights:
    """A copy in bfloat16 of a float32 weight [N, K], or of several whose rows follow one another, for products.

    All of several weights but the last have a multiple of `BLOCK` rows.
    """

    def __init__(self, *weights: Tensor) -> None:
        outputs, inputs = sum(map(len, weights)), weights[0].shape[1]
        self._forward = _empty_panels(-(-outputs // BLOCK), -(-inputs // BLOCK))
        self._backward: Tensor | None = None
        self.update(*weights)

    def update(self, *weights: Tensor) -> None:
        """Copy the weights again, after they have changed."""
        _kernels.pack_weights([weight.detach() for weight in weights], self._forward)
        self._is_transposed = False

    def _transposed(self) -> Tensor:
        """Return the weights in the order of the backward pass; inference does without that copy."""
        if self._backward is None:
            columns, depth = len(self._forward), self._forward.shape[1] * 2
            self._backward = _empty_panels(depth // BLOCK, columns)
        if not self._is_transposed:
            _kernels.transpose_panels(self._forward, self._backward)
            self._is_transposed = True
        return self._backward

    def product(self, inputs: Tensor, out: Tensor) -> Tensor:
        """out [T, N] = inputs [T, K] @ W.T"""
        _kernels.packed_product(inputs, self._forward, out)
        return out

    def gelu(self, inputs: Tensor, bias: Tensor, form: str, derivative: Tensor, activated: Tensor) -> None:
        """activated [T, N] = GELU(inputs @ W.T + bias), and its derivative; the form is "none" or "tanh"."""
        _kernels.packed_product_gelu(inputs, self._forward, bias, form, derivative, activated)

    def input_gradient(self, out_gradient: Tensor, out: Tensor, *, add: bool = False) -> Tensor:
        """out [T, K] = out_gradient [T, N] @ W, or += with `add`."""
        _kernels.packed_product(out_gradient, self._transposed(), out, add)
        return out

    def gelu_gradient(self, out_gradient: Tensor, derivative: Tensor, out: Tensor, bias_gradient: Tensor) -> None:
        """out [T, K] = (out_gradient [T, N] @ W) * derivative; the column sums are added to bias_gradient [K].

        W is that of the layer after the GELU, `derivative` the GELU's, and the bias that of the layer before it.
        """
        _kernels.packed_product_gelu_gradient(out_gradient, self._transposed(), derivative, out, bias_gradient)


def add_weight_gradient(out_gradient: Tensor, inputs: Tensor, gradient: Tensor) -> None:
    """gradient [N, K] (float32) += out_gradient [T, N].T @ inputs [T, K]"""
    _kernels.weight_gradient(out_gradient, inputs, gradient)


def _empty_panels(panels: int, steps: int) -> Tensor:
    """Return memory for a packed matrix of so many blocks of columns and of rows."""
    return torch.empty(panels, steps * BLOCK // 2, BLOCK, 2, dtype=torch.bfloat16)
