"""Whether all that is compared computes the same, found out before anything is timed.

Each runs once, in training mode with dropout 0 (random numbers differ), on the same weights and inputs. Its result and
all of its gradients must be those of the eager engine in fp32, but for what its precision rounds. Then what is timed,
with dropout, runs once too: it may have been compiled to something else, so its gradients must at least be there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import nn

TOLERANCES = {"fp32": 1e-4, "avx-fp32": 1e-4, "bf32": 0.1, "bf16": 0.1, "fp16": 0.05}
"""Most that a tensor may be off by precision: norm of the difference over the norm of what is expected."""
NEGLIGIBLE = 1e-3
"""Share of the largest gradient's norm below which a gradient counts as this: the keys' biases' are rounding alone."""

LOSS_SCALE = 1024.0
"""That of all losses' gradients, so that fp16 has them too."""


@dataclass(frozen=True)
class Outcome:
    """What a forward and backward pass gave."""

    result: torch.Tensor
    """The loss, or the output."""
    gradients: Mapping[str, torch.Tensor | None]
    """By parameter, and of the input where it has one."""


@contextlib.contextmanager
def exact_products() -> Iterator[None]:
    """Compute float32 matrix products in float32, whatever `apply_precision` has chosen."""
    chosen = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(chosen)


def compute_gradients(loss: torch.Tensor, model: nn.Module) -> Outcome:
    """Return a loss and its gradients, which are taken from the model."""
    (loss * LOSS_SCALE).backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = None
    return Outcome(loss.detach(), gradients)


def find_differences(
    outcomes: Mapping[str, Callable[[], Outcome]], expected: Outcome, tolerance: float
) -> dict[str, str]:
    """Return by name in what those differ that do not agree; they are computed one after the other.

    With an infinite tolerance nothing but missing gradients is found, and what is not a number.
    """
    found = {name: find_difference(compute(), expected, tolerance) for name, compute in outcomes.items()}
    return {name: difference for name, difference in found.items() if difference is not None}


def find_difference(found: Outcome, expected: Outcome, tolerance: float) -> str | None:
    """Return in what an outcome differs, None if in nothing that matters."""
    norms = {name: _norm(gradient) for name, gradient in expected.gradients.items()}
    least = NEGLIGIBLE * max(norms.values())
    missing, errors = [], {"the result": _error(found.result, expected.result, 0.0)}
    for name, norm in norms.items():
        gradient = found.gradients.get(name)
        if gradient is not None and _norm(gradient) != 0:
            errors[f"the gradient of {name}"] = _error(gradient, expected.gradients[name], least)
        elif norm > least:
            missing.append(name)
    # Written so that NaN is among them.
    wrong = {name: error for name, error in errors.items() if not error <= tolerance}
    parts = []
    if missing:
        parts.append(f"{len(missing)} of {len(norms)} gradients are missing or 0, that of {missing[0]} among them")
    if wrong:
        worst = max(wrong, key=lambda name: (wrong[name] != wrong[name], wrong[name]))
        parts.append(
            f"{len(wrong)} of {len(errors)} tensors differ, most of all {worst}, by {wrong[worst]:.2g} of its norm "
            f"({tolerance:g} at most was expected)"
        )
    return "; ".join(parts) or None


def _norm(tensor: torch.Tensor | None) -> float:
    return 0.0 if tensor is None else float(tensor.detach().double().norm())


def _error(found: torch.Tensor, expected: torch.Tensor | None, least: float) -> float:
    """Return the norm of the difference over that of `expected`, which counts as `least` at least.

    A gradient in the layout of packed weights, which IPEX's layers give, has another shape: only its norm is compared.
    """
    assert expected is not None
    norm = _norm(expected)
    if found.shape != expected.shape:
        difference = abs(_norm(found) - norm)
    else:
        difference = float((found.detach().double() - expected.detach().double()).norm())
    return difference / max(norm, least)
