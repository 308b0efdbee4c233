"""Build an optimizer from settings and a model, and exchange its state by parameter name."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bert_large.config.training import OptimConfig
from bert_large.optim.lamb import Lamb, LambArrays, LambSettings, update_in_turn
from bert_large.optim.schedule import (
    OneCycleSchedule,
    PolynomialSchedule,
    Schedule,
    TimedSchedule,
    WarmupDecaySchedule,
    cosine,
    linear,
    one_minus_sqrt,
)

_NOT_ADAPTED = ("LayerNorm", "layer_norm", "bias")
MOMENTS = ("exp_avg", "exp_avg_sq")


def is_adapted(name: str) -> bool:
    """Return whether a parameter gets weight decay and LAMB's trust ratio, by the reference's name patterns."""
    return not any(pattern in name for pattern in _NOT_ADAPTED)


def build_optimizer(
    model: nn.Module,
    config: OptimConfig,
    lamb: Callable[[Sequence[LambArrays], LambSettings], None] = update_in_turn,
    owned: Collection[str] | None = None,
) -> torch.optim.Optimizer:
    """Return LAMB (computed by an engine's `lamb`) or AdamW for the model's parameters, in two groups.

    The first group is adapted (`is_adapted`), the second exempt. `owned` names the parameters to include; None includes
    all.
    """
    held = {name: parameter for name, parameter in model.named_parameters() if owned is None or name in owned}
    adapted = [parameter for name, parameter in held.items() if is_adapted(name)]
    exempt = [parameter for name, parameter in held.items() if not is_adapted(name)]
    betas = (config.beta_1, config.beta_2)
    if config.optimizer == "lamb":
        groups: list[dict[str, Any]] = [{"params": adapted}, {"params": exempt, "adapt": False}]
        return Lamb(groups, config.learning_rate, betas, config.epsilon, config.weight_decay, lamb)
    groups = [{"params": adapted, "weight_decay": config.weight_decay}, {"params": exempt, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=betas, eps=config.epsilon, fused=True)
    # PyTorch's fused update does not advance version counters, by which engines renew their copies of weights.
    optimizer.register_step_post_hook(lambda *_: torch.autograd.graph.increment_version([*adapted, *exempt]))
    return optimizer


def build_schedule(config: OptimConfig, time_share: Callable[[], float] | None = None) -> Schedule:
    """Return the learning-rate schedule of the settings, as a function of time with `time_share`."""
    length: dict[str, Any] = {
        "learning_rate": config.learning_rate,
        "total_steps": config.total_steps,
        "warmup_steps": config.warmup_steps,
    }
    start = {"start_warmup_step": config.start_warmup_step}
    schedules: dict[str, Callable[[], Schedule]] = {
        "polynomial": lambda: PolynomialSchedule(**length, **start, decay_power=config.decay_power),
        "linear": lambda: WarmupDecaySchedule(**length, **start, curve=linear),
        "cosine": lambda: WarmupDecaySchedule(**length, **start, curve=cosine),
        "wsd": lambda: WarmupDecaySchedule(
            **length, **start, curve=one_minus_sqrt, decay_fraction=config.decay_fraction
        ),
        "one-cycle": lambda: OneCycleSchedule(**length),
    }
    schedule = schedules[config.schedule]()
    if time_share is None:
        return schedule
    return TimedSchedule(schedule=schedule, total_steps=config.total_steps, time_share=time_share)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every group."""
    for group in optimizer.param_groups:
        group["lr"] = rate


@torch.no_grad()
def clip_gradients(optimizer: torch.optim.Optimizer, norm: float, max_norm: float, loss_scale: float = 1.0) -> None:
    """Scale the gradients of the next update by max_norm / max(max_norm, norm), where `norm` is their global norm.

    Gradients in `.grad` are `loss_scale` times those of norm `norm`; the same factor undoes that. LAMB multiplies by it
    as it reads gradients, which saves a pass over them.
    """
    scale = (max_norm / norm if norm > max_norm else 1.0) / loss_scale
    if isinstance(optimizer, Lamb):
        optimizer.gradient_scale = scale
    elif scale != 1.0:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad.mul_(scale)


def moment_names(parameter: str) -> list[str]:
    """Return the names of a parameter's moments."""
    return [f"{moment}.{parameter}" for moment in MOMENTS]


def get_moments(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return both moments of every parameter in the optimizer, by `moment_names`: the tensors themselves, not copies.

    Before the first update, they are zeros.
    """
    return {
        name: optimizer.state[parameter][moment] if optimizer.state else torch.zeros_like(parameter.data)
        for parameter_name, parameter in held_parameters(model, optimizer).items()
        for name, moment in zip(moment_names(parameter_name), MOMENTS, strict=True)
    }


def set_moments(model: nn.Module, optimizer: torch.optim.Optimizer, moments: dict[str, Tensor], updates: int) -> None:
    """Restore moments that `get_moments` returned after `updates` updates."""
    for name, parameter in held_parameters(model, optimizer).items():
        state: dict[str, Any] = {
            moment: moments[key].clone() for key, moment in zip(moment_names(name), MOMENTS, strict=True)
        }
        state["step"] = torch.tensor(float(updates)) if isinstance(optimizer, torch.optim.AdamW) else updates
        optimizer.state[parameter] = state


def held_parameters(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, nn.Parameter]:
    """Return the parameters in the optimizer, by name, in the model's order."""
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    return {name: parameter for name, parameter in model.named_parameters() if id(parameter) in held}
