"""Optimizers from settings, clipping, and moments by parameter name."""

from __future__ import annotations

import pytest
import torch
from bert_large.config.training import OptimConfig
from bert_large.optim.build import (
    build_optimizer,
    build_schedule,
    clip_gradients,
    get_moments,
    is_adapted,
    set_moments,
    set_rate,
)
from bert_large.optim.lamb import Lamb

from tests.support.models import tiny_model


def config(optimizer: str = "lamb") -> OptimConfig:
    return OptimConfig(
        optimizer=optimizer, learning_rate=0.01, beta_1=0.8, beta_2=0.95, epsilon=1e-4, weight_decay=0.1, total_steps=9,
        warmup_steps=3, start_warmup_step=-1, decay_power=0.5,
    )  # fmt: skip


def give_gradients(model: torch.nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def test_biases_and_norms_are_exempt() -> None:
    """As in the reference. Adapted are 6 matrices per layer, 3 tables and 3 head weights."""
    model = tiny_model()
    names = [name for name, _ in model.named_parameters()]
    assert [name for name in names if not is_adapted(name)] == [
        name for name in names if name.endswith("bias") or "LayerNorm" in name
    ]
    optimizer = build_optimizer(model, config())
    assert isinstance(optimizer, Lamb)
    adapted, exempt = optimizer.param_groups
    assert (len(adapted["params"]), len(exempt["params"])) == (2 * 6 + 3 + 3, len(names) - 18)
    assert (adapted["adapt"], exempt["adapt"]) == (True, False)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(names)


def test_lamb_gets_all_its_settings() -> None:
    for group in build_optimizer(tiny_model(), config()).param_groups:
        found = {name: group[name] for name in ("lr", "betas", "epsilon", "weight_decay")}
        assert found == {"lr": 0.01, "betas": (0.8, 0.95), "epsilon": 1e-4, "weight_decay": 0.1}


def test_adamw_matches_its_definition() -> None:
    """Two updates of every parameter: decay is decoupled, and biases and norms have none."""
    model = tiny_model()
    optimizer = build_optimizer(model, config("adamw"))
    weights = {name: parameter.detach().clone().double() for name, parameter in model.named_parameters()}
    means = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    squares = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for step in (1, 2):
        give_gradients(model, step)
        optimizer.step()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None
            gradient = parameter.grad.double()
            means[name] = 0.8 * means[name] + 0.2 * gradient
            squares[name] = 0.95 * squares[name] + 0.05 * gradient**2
            change = means[name] / (1 - 0.8**step) / ((squares[name] / (1 - 0.95**step)).sqrt() + 1e-4)
            decay = 0.1 if is_adapted(name) else 0.0
            weights[name] = weights[name] - 0.01 * (decay * weights[name] + change)
            torch.testing.assert_close(parameter.detach().double(), weights[name], rtol=1e-5, atol=1e-7, msg=name)


@pytest.mark.parametrize("name", ["lamb", "adamw"])
def test_rate_is_that_of_the_next_update(name: str) -> None:
    """The rate applies to every parameter."""
    model = tiny_model()
    optimizer = build_optimizer(model, config(name))
    before = [parameter.detach().clone() for parameter in model.parameters()]
    give_gradients(model, 1)
    set_rate(optimizer, 0.0)
    optimizer.step()
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))
    set_rate(optimizer, 1e-3)
    optimizer.step()
    assert not any(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize("name", ["lamb", "adamw"])
@pytest.mark.parametrize(("norm", "factor"), [(5.0, 0.5), (2.5, 1.0), (2.0, 1.0)])
def test_clipping_scales_the_next_update(name: str, norm: float, factor: float) -> None:
    """A clipped update equals an update with scaled gradients, and does not affect the next one."""
    clipped, scaled = tiny_model(), tiny_model()
    optimizers = [build_optimizer(model, config(name)) for model in (clipped, scaled)]
    for step, scale in enumerate((factor, 1.0)):
        give_gradients(clipped, step)
        give_gradients(scaled, step)
        for parameter in scaled.parameters():
            assert parameter.grad is not None
            parameter.grad *= scale
        clip_gradients(optimizers[0], norm if step == 0 else 0.0, 2.5)
        for optimizer in optimizers:
            optimizer.step()
    for ours, theirs in zip(clipped.parameters(), scaled.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", ["lamb", "adamw"])
def test_moments_round_trip(name: str) -> None:
    """A new optimizer with another's moments computes the same updates, bit for bit."""
    one, other = tiny_model(), tiny_model()
    optimizer = build_optimizer(one, config(name))
    for step in range(3):
        give_gradients(one, step)
        optimizer.step()
    moments = get_moments(one, optimizer)
    assert sorted(moments) == sorted(
        f"{kind}.{of}" for of, _ in one.named_parameters() for kind in ("exp_avg", "exp_avg_sq")
    )
    other.load_state_dict(one.state_dict())
    resumed = build_optimizer(other, config(name))
    set_moments(other, resumed, {name: tensor.clone() for name, tensor in moments.items()}, updates=3)
    for step in range(3, 5):
        for model, updates in ((one, optimizer), (other, resumed)):
            give_gradients(model, step)
            updates.step()
    for (parameter_name, ours), theirs in zip(one.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, theirs), parameter_name


@pytest.mark.parametrize("optimizer", ["lamb", "adamw"])
def test_updates_count_as_changes(optimizer: str) -> None:
    """They advance autograd's version counters, by which engines renew their copies of weights."""
    model = tiny_model()
    updates = build_optimizer(model, config(optimizer))
    give_gradients(model, 1)
    before = [parameter._version for parameter in model.parameters()]
    updates.step()
    assert all(parameter._version > version for parameter, version in zip(model.parameters(), before, strict=True))


def test_schedule_gets_all_its_settings() -> None:
    assert vars(build_schedule(config())) == {
        "learning_rate": 0.01, "total_steps": 9, "warmup_steps": 3, "start_warmup_step": -1, "decay_power": 0.5,
    }  # fmt: skip
