"""LAMB against an independent implementation in NumPy, double precision."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from bert_large.optim.lamb import Lamb

STEPS = 6
SHAPES = {"matrix": (7, 5), "vector": (9,), "zero": (4, 3), "exempt": (6,)}


class NumpyLamb:
    """The equations of the paper as MLCommons' reference has them (bias correction, no clamp on the ratio)."""

    def __init__(self, beta_1: float, beta_2: float, epsilon: float, weight_decay: float) -> None:
        self.beta_1, self.beta_2, self.epsilon, self.weight_decay = beta_1, beta_2, epsilon, weight_decay
        self.means: dict[str, Any] = {}
        self.squares: dict[str, Any] = {}

    def update(self, name: str, weight: np.ndarray, gradient: np.ndarray, step: int, rate: float) -> np.ndarray:
        """Return the weight after update `step`, counted from 1."""
        self.means[name] = self.beta_1 * self.means.get(name, 0) + (1 - self.beta_1) * gradient
        self.squares[name] = self.beta_2 * self.squares.get(name, 0) + (1 - self.beta_2) * gradient**2
        mean = self.means[name] / (1 - self.beta_1**step)
        square = self.squares[name] / (1 - self.beta_2**step)
        change = mean / (np.sqrt(square) + self.epsilon)
        if name == "exempt":
            return weight - rate * change
        change = change + self.weight_decay * weight
        weight_norm, change_norm = np.sqrt((weight**2).sum()), np.sqrt((change**2).sum())
        ratio = weight_norm / change_norm if weight_norm and change_norm else 1.0
        return weight - rate * ratio * change


@pytest.mark.parametrize(
    ("betas", "epsilon", "weight_decay"),
    [((0.9, 0.999), 1e-6, 0.01), ((0.88, 0.88), 1e-6, 0.0166629), ((0.66, 0.996), 1e-3, 0.0)],
)
def test_matches_numpy(betas: tuple[float, float], epsilon: float, weight_decay: float) -> None:
    """Several steps at changing rates, with weights that start at 0 and exempt ones; each parameter has a ratio."""
    rng = np.random.default_rng(1)
    weights = {name: rng.normal(size=shape) for name, shape in SHAPES.items()}
    weights["zero"] *= 0
    parameters = {name: torch.nn.Parameter(torch.from_numpy(value.copy())) for name, value in weights.items()}
    adapted = [parameter for name, parameter in parameters.items() if name != "exempt"]
    groups: list[dict[str, Any]] = [{"params": adapted}, {"params": [parameters["exempt"]], "adapt": False}]
    lamb = Lamb(groups, lr=1.0, betas=betas, epsilon=epsilon, weight_decay=weight_decay)
    reference = NumpyLamb(*betas, epsilon, weight_decay)
    for step in range(1, STEPS + 1):
        rate = 0.1 / step
        for group in lamb.param_groups:
            group["lr"] = rate
        for name, parameter in parameters.items():
            gradient = rng.normal(scale=10.0 ** rng.integers(-4, 2), size=SHAPES[name])
            parameter.grad = torch.from_numpy(gradient)
            weights[name] = reference.update(name, weights[name], gradient, step, rate)
        lamb.step()
        for name, parameter in parameters.items():
            np.testing.assert_allclose(parameter.detach().numpy(), weights[name], rtol=1e-12, err_msg=name)


def single(weight: list[float], gradient: list[float], **options: Any) -> list[float]:
    """Return a parameter after one update at rate 0.5."""
    parameter = torch.nn.Parameter(torch.tensor(weight))
    parameter.grad = torch.tensor(gradient)
    Lamb([{"params": [parameter]}], lr=0.5, **options).step()
    return parameter.tolist()


def test_a_worked_example() -> None:
    """The first update is the gradient's sign, scaled to the weight's norm: |w| = 5, |update| = sqrt(2)."""
    moved = 0.5 * 5 / 2**0.5
    assert single([3.0, 4.0], [1e-2, -1e-2], weight_decay=0.0) == pytest.approx([3 - moved, 4 + moved], rel=1e-3)


def test_ratio_is_1_where_a_norm_is_0() -> None:
    """Zero weights move by the plain update; no gradient and no decay moves nothing (and divides by nothing)."""
    assert single([0.0, 0.0], [0.2, -0.2], weight_decay=0.0) == pytest.approx([-0.5, 0.5], rel=1e-3)
    assert single([1.0, 2.0], [0.0, 0.0], weight_decay=0.0) == [1.0, 2.0]


def test_ratio_is_not_clamped() -> None:
    """Some implementations clamp it to 10: here a weight of norm 1000 moves by half of that."""
    assert single([1000.0], [1.0], weight_decay=0.0) == pytest.approx([500.0], rel=1e-3)


def test_parameters_without_gradient_stay() -> None:
    parameter = torch.nn.Parameter(torch.ones(2))
    Lamb([{"params": [parameter]}], lr=0.5).step()
    assert parameter.tolist() == [1.0, 1.0]
