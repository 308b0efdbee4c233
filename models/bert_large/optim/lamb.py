"""LAMB (You et al. 2019, "Large Batch Optimization for Deep Learning") as MLCommons' BERT reference computes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, overload

import torch


class Lamb(torch.optim.Optimizer):
    """LAMB with bias correction of both moments and an unclamped trust ratio for each parameter.

    update = m^ / (sqrt(v^) + epsilon) + weight_decay * w;  w -= lr * ratio * update, where ratio = |w| / |update|, or 1
    where either norm is 0. Groups with `adapt=False` (biases and LayerNorm) get neither decay nor ratio.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-6,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(
            groups, {"lr": lr, "betas": betas, "epsilon": epsilon, "weight_decay": weight_decay, "adapt": True}
        )

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update every parameter that has a gradient."""
        loss = closure() if closure is not None else None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
        return loss

    def _update(self, parameter: torch.Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = 0
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        state["step"] += 1
        beta_1, beta_2 = group["betas"]
        mean, mean_square, gradient = state["exp_avg"], state["exp_avg_sq"], parameter.grad
        mean.mul_(beta_1).add_(gradient, alpha=1 - beta_1)
        mean_square.mul_(beta_2).addcmul_(gradient, gradient, value=1 - beta_2)

        denominator = (mean_square / (1 - beta_2 ** state["step"])).sqrt_().add_(group["epsilon"])
        update = (mean / (1 - beta_1 ** state["step"])).div_(denominator)
        ratio = 1.0
        if group["adapt"]:
            update.add_(parameter, alpha=group["weight_decay"])
            ratio = _trust_ratio(parameter, update)
        parameter.add_(update, alpha=-group["lr"] * ratio)


def _trust_ratio(weight: torch.Tensor, update: torch.Tensor) -> float:
    """Return |weight| / |update|, or 1 where either is 0; norms summed in double."""
    weight_norm = float(torch.linalg.vector_norm(weight, dtype=torch.float64))
    update_norm = float(torch.linalg.vector_norm(update, dtype=torch.float64))
    return weight_norm / update_norm if weight_norm > 0 and update_norm > 0 else 1.0
