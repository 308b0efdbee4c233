"""LAMB (You et al. 2019, "Large Batch Optimization for Deep Learning", arXiv 1904.00962), as in MLCommons' BERT.

For each parameter w with gradient g at step t (from 1), all operations but norms elementwise:

    m = beta_1 m + (1 - beta_1) g,   v = beta_2 v + (1 - beta_2) g^2
    u = (m / (1 - beta_1^t)) / (sqrt(v / (1 - beta_2^t)) + epsilon) + weight_decay w
    w = w - rate r u,   r = |w| / |u|, or 1 where either norm is 0

That is AdamW's update u, rescaled to the norm of the parameter: each parameter moves by the fraction `rate` of its own
size, which is what allows batches of tens of thousands. The paper leaves room for variants. The reference's choices
are: bias correction of both moments, no bounds on r, and for biases and LayerNorms neither weight decay nor r.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class LambArrays:
    """A parameter and its tensors, all of one shape, float32; `weight` and the moments are updated in place."""

    weight: torch.Tensor
    gradient: torch.Tensor
    mean: torch.Tensor
    mean_square: torch.Tensor


@dataclass(frozen=True, kw_only=True)
class LambSettings:
    """The numbers of one step. Gradients are multiplied by `gradient_scale`; `step` counts from 1."""

    rate: float
    beta_1: float
    beta_2: float
    epsilon: float
    weight_decay: float
    gradient_scale: float
    step: int
    adapt: bool


def update_parameter(arrays: LambArrays, settings: LambSettings) -> None:
    """Update one parameter and its moments in plain PyTorch: the reference for all other implementations."""
    gradient = arrays.gradient if settings.gradient_scale == 1.0 else arrays.gradient * settings.gradient_scale
    arrays.mean.mul_(settings.beta_1).add_(gradient, alpha=1 - settings.beta_1)
    arrays.mean_square.mul_(settings.beta_2).addcmul_(gradient, gradient, value=1 - settings.beta_2)

    denominator = (arrays.mean_square / (1 - settings.beta_2**settings.step)).sqrt_().add_(settings.epsilon)
    update = (arrays.mean / (1 - settings.beta_1**settings.step)).div_(denominator)
    ratio = 1.0
    if settings.adapt:
        update.add_(arrays.weight, alpha=settings.weight_decay)
        ratio = trust_ratio(arrays.weight, update)
    arrays.weight.add_(update, alpha=-settings.rate * ratio)


def trust_ratio(weight: torch.Tensor, update: torch.Tensor) -> float:
    """Return |weight| / |update|, or 1 where either is 0; squares are summed in float64."""
    weight_norm = float(torch.linalg.vector_norm(weight, dtype=torch.float64))
    update_norm = float(torch.linalg.vector_norm(update, dtype=torch.float64))
    return weight_norm / update_norm if weight_norm > 0 and update_norm > 0 else 1.0


def update_in_turn(arrays: Sequence[LambArrays], settings: LambSettings) -> None:
    """Update several parameters one after the other."""
    for entry in arrays:
        update_parameter(entry, settings)


class Lamb(torch.optim.Optimizer):
    """LAMB as a PyTorch optimizer; `update` does the arithmetic: an engine's `lamb`, or plain PyTorch.

    Groups with `adapt=False` (biases and LayerNorm) get neither weight decay nor trust ratio.
    """

    gradient_scale = 1.0
    """Factor of gradients as they are read, for clipping without another pass over them."""

    def __init__(
        self, groups: list[dict[str, Any]], lr: float, betas: tuple[float, float] = (0.9, 0.999), epsilon: float = 1e-6,
        weight_decay: float = 0.01, update: Callable[[Sequence[LambArrays], LambSettings], None] = update_in_turn,
    ) -> None:  # fmt: skip
        super().__init__(
            groups, {"lr": lr, "betas": betas, "epsilon": epsilon, "weight_decay": weight_decay, "adapt": True}
        )
        self._update = update

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        loss = closure() if closure is not None else None
        for group in self.param_groups:
            by_step: dict[int, list[LambArrays]] = {}  # parameters can have different numbers of updates
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self._advance(parameter)
                arrays = LambArrays(parameter, parameter.grad, state["exp_avg"], state["exp_avg_sq"])
                by_step.setdefault(state["step"], []).append(arrays)
            for step, entries in by_step.items():
                self._update(entries, self._settings(group, step))
        return loss

    def _advance(self, parameter: torch.Tensor) -> dict[str, Any]:
        state = self.state[parameter]
        if not state:
            state |= {"step": 0, "exp_avg": torch.zeros_like(parameter), "exp_avg_sq": torch.zeros_like(parameter)}
        state["step"] += 1
        return state

    def _settings(self, group: dict[str, Any], step: int) -> LambSettings:
        return LambSettings(
            rate=group["lr"],
            beta_1=group["betas"][0],
            beta_2=group["betas"][1],
            epsilon=group["epsilon"],
            weight_decay=group["weight_decay"],
            gradient_scale=self.gradient_scale,
            step=step,
            adapt=group["adapt"],
        )
