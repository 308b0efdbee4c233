"""Checks, before anything is timed, that all compared variants compute the same.

Each variant runs once on the same weights and inputs, in training mode and without dropout, whose random numbers
differ. Its result and all gradients must equal those of the eager engine in fp32 up to the rounding of its precision.
Then the variant that is timed, with dropout, runs once too. It may have been compiled differently, so all of its
gradients must at least exist.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

TOLERANCES = {"fp32": 1e-4, "avx-fp32": 1e-4, "bf32": 0.1, "bf16": 0.1, "fp16": 0.05}
"""Largest relative error of a tensor by precision: norm of the difference over norm of the expected tensor."""
NEGLIGIBLE = 1e-3
"""Gradients whose norm is below this share of the largest norm are treated as having this norm.

The gradients of the key biases are pure rounding noise: a constant added to all scores of a query does not change its
softmax.
"""
LOSS_SCALE = 1024.0
"""Factor of the loss in every precision, so that small gradients do not underflow in fp16."""


@dataclass(frozen=True)
class Outcome:
    """Result of a forward and backward pass."""

    result: torch.Tensor
    """The loss, or the encoder's output."""
    gradients: Mapping[str, torch.Tensor | None]
    """Gradients by parameter, and of the input if it has one."""


def compute_gradients(loss: torch.Tensor, model: nn.Module) -> Outcome:
    """Return a loss and its gradients, and remove the gradients from the model."""
    (loss * LOSS_SCALE).backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = None
    return Outcome(loss.detach(), gradients)


def find_differences(
    outcomes: Mapping[str, Callable[[], Outcome]], expected: Outcome, tolerance: float
) -> dict[str, str]:
    """Describe how outcomes differ from `expected`; an infinite tolerance finds only missing gradients and NaN."""
    found = {name: find_difference(compute(), expected, tolerance) for name, compute in outcomes.items()}
    return {name: difference for name, difference in found.items() if difference is not None}


def find_difference(found: Outcome, expected: Outcome, tolerance: float) -> str | None:
    """Return a description of how an outcome differs from `expected`, or None if it agrees."""
    norms = {name: _norm(gradient) for name, gradient in expected.gradients.items()}
    least = NEGLIGIBLE * max(norms.values())
    missing, errors = [], {"the result": _error(found.result, expected.result, 0.0)}
    for name, norm in norms.items():
        gradient = found.gradients.get(name)
        if gradient is not None and _norm(gradient) != 0:
            errors[f"the gradient of {name}"] = _error(gradient, expected.gradients[name], least)
        elif norm > least:
            missing.append(name)
    # `not … <=` instead of `>`, so that NaN counts as wrong.
    wrong = {name: error for name, error in errors.items() if not error <= tolerance}
    parts = []
    if missing:
        parts.append(f"{len(missing)} of {len(norms)} gradients are missing or 0, such as that of {missing[0]}")
    if wrong:
        worst = max(wrong, key=lambda name: (wrong[name] != wrong[name], wrong[name]))
        parts.append(
            f"{len(wrong)} of {len(errors)} tensors differ, most of all {worst}, by {wrong[worst]:.2g} of its norm "
            f"(expected at most {tolerance:g})"
        )
    return "; ".join(parts) or None


def _norm(tensor: torch.Tensor | None) -> float:
    return 0.0 if tensor is None else float(tensor.detach().double().norm())


def _error(found: torch.Tensor, expected: torch.Tensor | None, least: float) -> float:
    """Return the norm of the difference over that of `expected`, which is taken to be at least `least`.

    IPEX's layers return gradients in the layout of packed weights, with another shape: only their norm is compared.
    """
    assert expected is not None
    norm = _norm(expected)
    if found.shape != expected.shape:
        difference = abs(_norm(found) - norm)
    else:
        difference = float((found.detach().double() - expected.detach().double()).norm())
    return difference / max(norm, least)
