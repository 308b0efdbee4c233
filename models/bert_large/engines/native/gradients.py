"""Where backward passes of the native engine put gradients of parameters: into `.grad`, or into autograd's hands.

Both classes implement `Gradients`; a backward pass makes an object of one of them, adds all gradients to it, and
returns its `results` to autograd.

`DirectGradients` is for pretraining. Autograd would compute each micro-batch's gradient as a new tensor and add it to
`.grad`. A product that adds to its result saves that memory and two passes over it; of BERT-large's weights they are
1.3 GB per micro-batch. But only `loss.backward()` on parameters that are leaves gives gradients.

`ReturnedGradients` is for code that relies on autograd: hooks, `DistributedDataParallel`, `torch.autograd.grad`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from bert_large.engines.native.products import add_weight_gradient, weight_gradient


class Gradients(Protocol):
    """Collects the gradients of one backward pass."""

    def of(self, parameter: Tensor) -> Tensor:
        """Return a float32 tensor to add a parameter's gradient to. For a frozen parameter, its values are not used."""

    def add_product(self, out_gradient: Tensor, inputs: Tensor, *weights: Tensor) -> None:
        """Add out_gradient.T @ inputs to the gradients of weights whose rows follow one another in that product."""

    def results(self, *parameters: Tensor) -> list[Tensor | None]:
        """Return what the backward pass returns to autograd for its parameters."""


class DirectGradients:
    """Adds gradients to `parameter.grad`, where possible by the matrix products themselves."""

    def of(self, parameter: Tensor) -> Tensor:
        """See `Gradients`."""
        if not parameter.requires_grad:
            return torch.zeros_like(parameter)
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        return parameter.grad

    def add_product(self, out_gradient: Tensor, inputs: Tensor, *weights: Tensor) -> None:
        """See `Gradients`.

        The first gradients of several weights (query, key and value) are made as parts of one tensor, so that then and
        in later micro-batches one product serves all of them.
        """
        gradients = [weight.grad for weight in weights]
        all_wanted = all(weight.requires_grad for weight in weights)
        if all_wanted and all(gradient is None for gradient in gradients):
            for weight, part in zip(weights, _product_parts(out_gradient, inputs, weights), strict=True):
                weight.grad = part
            return
        joint_gradient = _as_one(gradients) if all_wanted else None
        if joint_gradient is not None:
            add_weight_gradient(out_gradient, inputs, joint_gradient)
            return
        parts = out_gradient.split([len(weight) for weight in weights], dim=1)
        for weight, part in zip(weights, parts, strict=True):
            if weight.requires_grad:
                add_weight_gradient(part, inputs, self.of(weight))

    def results(self, *parameters: Tensor) -> list[Tensor | None]:
        """See `Gradients`. Autograd gets None: the gradients are in `.grad` already."""
        return [None] * len(parameters)


class ReturnedGradients:
    """Keeps gradients until they are returned to autograd."""

    def __init__(self) -> None:
        self._gradients: dict[int, Tensor] = {}

    def of(self, parameter: Tensor) -> Tensor:
        """See `Gradients`."""
        return self._gradients.setdefault(id(parameter), torch.zeros_like(parameter))

    def add_product(self, out_gradient: Tensor, inputs: Tensor, *weights: Tensor) -> None:
        """See `Gradients`."""
        if not any(weight.requires_grad for weight in weights):
            return
        for weight, part in zip(weights, _product_parts(out_gradient, inputs, weights), strict=True):
            earlier = self._gradients.get(id(weight))  # of the same tensor in another role, such as query and key
            self._gradients[id(weight)] = part if earlier is None else earlier + part

    def results(self, *parameters: Tensor) -> list[Tensor | None]:
        """See `Gradients`. Autograd adds up what it gets, so a tensor in two roles is returned once."""
        return [
            self._gradients.pop(id(parameter), None) if parameter.requires_grad else None for parameter in parameters
        ]


def _product_parts(out_gradient: Tensor, inputs: Tensor, weights: Sequence[Tensor]) -> Sequence[Tensor]:
    """Return out_gradient.T @ inputs in float32, cut into the rows of the weights."""
    return weight_gradient(out_gradient, inputs).split([len(weight) for weight in weights])


def _as_one(parts: Sequence[Tensor | None]) -> Tensor | None:
    """Return matrices that follow one another in the memory of one tensor as one matrix, else None."""
    first = parts[0]
    if first is None:
        return None
    end = first.data_ptr()
    for part in parts:
        if part is None or not part.is_contiguous() or part.data_ptr() != end:
            return None
        end += part.nbytes
    if end - first.data_ptr() > first.untyped_storage().nbytes() - first.storage_offset() * first.element_size():
        return None  # neighbors by chance: the first one's tensor ends before the last one does
    return first.as_strided((sum(len(part) for part in parts if part is not None), first.shape[1]), first.stride())
