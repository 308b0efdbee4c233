"""Weights of linear layers and their matrix products, forward and backward: by PyTorch, or by kernels of this package.

PyTorch computes bfloat16 products through oneDNN, which compiles a kernel for each new number of tokens. The kernels
here do not depend on it. They read weights that have been copied into the order of AMX tiles or vectors, and add
gradients of weights to float32 without rounding them (`csrc/products.h`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

BLOCK = 32
"""Rows and columns of the blocks that packed weights consist of; zeros fill those that the weight does not fill."""
_SAMPLES = 64  # elements of a weight that are compared with its copy
_kernels = torch.ops.bert_large


class LinearWeights(Protocol):
    """The weight [N, K] of a linear layer, or several whose rows follow one another, in the type of activations."""

    outputs: int
    """N"""

    def product(self, inputs: Tensor, out: Tensor) -> Tensor:
        """out [T, N] = inputs [T, K] @ W.T"""

    def gelu(self, inputs: Tensor, bias: Tensor, form: str, derivative: Tensor, activated: Tensor) -> None:
        """activated [T, N] = GELU(inputs @ W.T + bias), and its derivative; the form is "none" or "tanh"."""

    def input_gradient(self, out_gradient: Tensor, out: Tensor, *, add: bool = False) -> Tensor:
        """out [T, K] = out_gradient [T, N] @ W, or += with `add`."""

    def gelu_gradient(self, out_gradient: Tensor, derivative: Tensor, out: Tensor, bias_gradient: Tensor) -> None:
        """out [T, K] = (out_gradient [T, N] @ W) * derivative; the column sums are added to bias_gradient [K].

        W is that of the layer after the GELU, `derivative` the GELU's, and the bias that of the layer before it.
        """


class PlainWeights:
    """`LinearWeights` with PyTorch's products."""

    def __init__(self, weights: Sequence[Tensor]) -> None:
        self._weights = weights
        self.outputs = sum(map(len, weights))

    def product(self, inputs: Tensor, out: Tensor) -> Tensor:
        """See `LinearWeights`."""
        for weight, part in zip(self._weights, self._split(out), strict=True):
            torch.mm(inputs, weight.t(), out=part)
        return out

    def gelu(self, inputs: Tensor, bias: Tensor, form: str, derivative: Tensor, activated: Tensor) -> None:
        """See `LinearWeights`."""
        _kernels.gelu(self.product(inputs, derivative), bias, form, activated)

    def input_gradient(self, out_gradient: Tensor, out: Tensor, *, add: bool = False) -> Tensor:
        """See `LinearWeights`."""
        for weight, part in zip(self._weights, self._split(out_gradient), strict=True):
            if add:
                out.addmm_(part, weight)
            else:
                torch.mm(part, weight, out=out)
                add = True
        return out

    def gelu_gradient(self, out_gradient: Tensor, derivative: Tensor, out: Tensor, bias_gradient: Tensor) -> None:
        """See `LinearWeights`."""
        _kernels.gelu_gradient(derivative, self.input_gradient(out_gradient, out), bias_gradient)

    def _split(self, of_all: Tensor) -> Sequence[Tensor]:
        return of_all.split([len(weight) for weight in self._weights], dim=1)


class PackedWeights:
    """`LinearWeights` as a copy of float32 weights [N, K] in bfloat16, in the order in which the kernels read them."""

    def __init__(self, *weights: Tensor) -> None:
        self.outputs, inputs = sum(map(len, weights)), weights[0].shape[1]
        panels, steps = -(-self.outputs // BLOCK), -(-inputs // BLOCK)
        self._panels = torch.empty(panels, steps * BLOCK // 2, BLOCK, 2, dtype=torch.bfloat16)
        self.update(*weights)

    def update(self, *weights: Tensor) -> None:
        """Copy the weights again."""
        parts = [weight.detach() for weight in weights]
        if any(len(part) % BLOCK for part in parts[:-1]):  # the kernel packs whole blocks of each
            parts = [torch.cat(parts)]
        _kernels.pack_weights(parts, self._panels)

    def matches(self, *weights: Tensor) -> bool:
        """Return whether some elements spread over the weights equal those of the copy."""
        return _kernels.samples_match(list(weights), self._panels, _SAMPLES)

    def product(self, inputs: Tensor, out: Tensor) -> Tensor:
        """See `LinearWeights`."""
        _kernels.packed_product(inputs.contiguous(), self._panels, out)
        return out

    def gelu(self, inputs: Tensor, bias: Tensor, form: str, derivative: Tensor, activated: Tensor) -> None:
        """See `LinearWeights`."""
        _kernels.packed_product_gelu(inputs.contiguous(), self._panels, bias, form, derivative, activated)

    def input_gradient(self, out_gradient: Tensor, out: Tensor, *, add: bool = False) -> Tensor:
        """See `LinearWeights`."""
        _kernels.packed_input_gradient(out_gradient, self._panels, out, add)
        return out

    def gelu_gradient(self, out_gradient: Tensor, derivative: Tensor, out: Tensor, bias_gradient: Tensor) -> None:
        """See `LinearWeights`."""
        _kernels.packed_input_gradient_gelu(out_gradient, self._panels, derivative, out, bias_gradient)


def add_weight_gradient(out_gradient: Tensor, inputs: Tensor, gradient: Tensor) -> None:
    """gradient [N, K] (float32) += out_gradient [T, N].T @ inputs [T, K]; both factors are float32 or both bfloat16."""
    if inputs.dtype == gradient.dtype:
        gradient.addmm_(out_gradient.t(), inputs)
    else:
        _kernels.weight_gradient(out_gradient.contiguous(), inputs.contiguous(), gradient, True)


def weight_gradient(out_gradient: Tensor, inputs: Tensor) -> Tensor:
    """Return out_gradient.T @ inputs in float32."""
    if inputs.dtype == torch.float32:
        return torch.mm(out_gradient.t(), inputs)
    gradient = torch.empty(out_gradient.shape[1], inputs.shape[1])
    _kernels.weight_gradient(out_gradient.contiguous(), inputs.contiguous(), gradient, False)
    return gradient
