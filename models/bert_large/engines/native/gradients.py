"""How the native engine adds up gradients of parameters: in `.grad`, where possible by the matrix products themselves.

Autograd would compute each micro-batch's gradient as a new tensor and add it to `.grad`. A product that adds to its
result saves that memory and two passes over it; of BERT-large's weights they are 1.3 GB per micro-batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

_kernels = torch.ops.bert_large


def gradient_of(parameter: torch.Tensor) -> torch.Tensor:
    """Return the tensor to add a parameter's gradient to: its `.grad`, or a temporary one for a frozen parameter."""
    if not parameter.requires_grad:
        return torch.zeros_like(parameter)
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


def add_weight_gradient(out_gradient: torch.Tensor, inputs: torch.Tensor, *weights: torch.Tensor) -> None:
    """Add out_gradient.T @ inputs to the gradients of weights that are consecutive rows of one matrix, in float32.

    The first gradients of several weights (query, key and value) are made as parts of one tensor, so that then and in
    later micro-batches one product serves all of them.
    """
    gradients = [weight.grad for weight in weights]
    all_wanted = all(weight.requires_grad for weight in weights)
    if all_wanted and all(gradient is None for gradient in gradients):
        joint = weight_gradient(out_gradient, inputs).float()
        for weight, part in zip(weights, joint.split([len(weight) for weight in weights]), strict=True):
            weight.grad = part
        return
    joint_gradient = _as_one(gradients) if all_wanted else None
    if joint_gradient is not None:
        add_product(joint_gradient, out_gradient, inputs)
        return
    parts = out_gradient.split([len(weight) for weight in weights], dim=1)
    for weight, part in zip(weights, parts, strict=True):
        if weight.requires_grad:
            add_product(gradient_of(weight), part, inputs)


def add_product(target: torch.Tensor, out_gradient: torch.Tensor, inputs: torch.Tensor) -> None:
    """target += out_gradient.T @ inputs; the sum is in float32 whatever the type of the factors."""
    if inputs.dtype == target.dtype:
        target.addmm_(out_gradient.t(), inputs)
    else:
        _kernels.add_bfloat16(target, weight_gradient(out_gradient, inputs))


def weight_gradient(out_gradient: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    """Return out_gradient.T @ inputs in their type.

    In bfloat16, oneDNN's product of a transposed view takes twice as long as the product of a transposed copy.
    """
    if inputs.dtype == torch.bfloat16:
        return torch.mm(_kernels.transposed(out_gradient.contiguous()), inputs)
    return torch.mm(out_gradient.t(), inputs)


def _as_one(parts: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
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
        return None  # neighbours by chance: the first one's tensor ends before the last one does
    return first.as_strided((sum(len(part) for part in parts if part is not None), first.shape[1]), first.stride())
