"""The IPEX engine's linear layers and LAMB against plain PyTorch; only collected where IPEX is installed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from bert_large.engines import resolve_engine
from bert_large.engines.eager import EagerEngine
from bert_large.engines.precision import apply_precision
from bert_large.matmul import bf32_rounds_factors
from bert_large.model.operations import Operations
from bert_large.optim.lamb import LambArrays, LambSettings, update_parameter

from tests.support.operations import Case, assert_close, batch_of, dense_values, draw, layer, norm_values


def dense_case(*, rows: int = 37, inputs: int = 72, outputs: int = 50) -> Case:
    """The masked-LM head's transformation: a linear layer, GELU and LayerNorm."""
    values = {"hidden": draw(rows, inputs, seed=1), **dense_values("dense", inputs, outputs, 2)}
    values |= norm_values("norm", outputs, 3)

    def apply(engine: Any, leaves: Any) -> torch.Tensor:
        return engine.transform(leaves["hidden"], layer(leaves, "dense"), "gelu", layer(leaves, "norm"))

    return Case(values, apply)


@pytest.fixture
def ipex() -> Operations:
    return resolve_engine("ipex")[0]


@pytest.mark.parametrize("rows", [1, 37, 300])
def test_packed_linear(ipex: Operations, rows: int) -> None:
    """Result and all gradients in bf16; gradients of parameters are float32."""
    case = dense_case(rows=rows)
    found, expected = case.results(ipex, torch.bfloat16), case.results(EagerEngine(), torch.float64)
    assert_close(found, expected, 0.03)
    assert all(value.dtype == torch.float32 for name, value in found.items() if name.partition(".")[2])


def test_packed_linear_in_bf32() -> None:
    """Products of rounded factors are far from fp32's, within bf16's tolerance; without AMX they are fp32's."""
    case = dense_case(rows=300)
    expected = case.results(EagerEngine(), torch.float64)
    try:
        apply_precision("bf32")
        found = case.results(resolve_engine("ipex", "bf32")[0], torch.float32)
    finally:
        apply_precision("fp32")
    assert_close(found, expected, 0.03)
    if bf32_rounds_factors():
        with pytest.raises(AssertionError):
            assert_close(found, expected, 1e-5)
    assert_close(case.results(resolve_engine("ipex")[0], torch.float32), expected, 1e-5)


@pytest.mark.parametrize("changed", ["dense.weight", "dense.bias"])
def test_changed_weights_are_packed_again(ipex: Operations, changed: str) -> None:
    case = dense_case()
    leaves = case.leaves(torch.float32)
    hidden = leaves | {"hidden": leaves["hidden"].to(torch.bfloat16)}
    before = case.forward(ipex, hidden, torch.bfloat16)
    assert torch.equal(case.forward(ipex, hidden, torch.bfloat16), before)
    with torch.no_grad():
        leaves[changed].mul_(1.5)
    after = case.forward(ipex, hidden, torch.bfloat16)
    assert not torch.equal(after, before)
    assert torch.equal(after, case.forward(resolve_engine("ipex")[0], hidden, torch.bfloat16))


@pytest.mark.parametrize("frozen", ["dense.weight", "dense.bias"])
def test_frozen_parameters(ipex: Operations, frozen: str) -> None:
    case = dense_case()
    found = case.results(ipex, torch.bfloat16, frozen=(frozen,))
    expected = case.results(EagerEngine(), torch.float64)
    del expected[frozen]
    assert_close(found, expected, 0.03)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_masked_tokens(ipex: Operations, dtype: torch.dtype) -> None:
    """A batch of one sequence with one token: loss and gradients are 0."""
    values = {"hidden": draw(1, 16, seed=1), "words": draw(100, 16, seed=2), "bias": draw(100, seed=3),
              **dense_values("dense", 16, 16, 4), **norm_values("norm", 16, 5)}  # fmt: skip

    def apply(engine: Operations, leaves: Any) -> torch.Tensor:
        dense, norm = layer(leaves, "dense"), layer(leaves, "norm")
        return engine.masked_head(batch_of([1]), leaves["hidden"], dense, "gelu", norm, leaves["words"],
                                  leaves["bias"])[0]  # fmt: skip

    found = Case(values, apply).results(ipex, dtype)
    assert float(found["out"]) == 0
    assert all(float(value.abs().max()) == 0 for value in found.values())


# --- LAMB


def lamb_settings(step: int, **changes: Any) -> LambSettings:
    values: dict[str, Any] = {"rate": 0.01 / step, "beta_1": 0.9, "beta_2": 0.99, "epsilon": 1e-6}
    values |= {"weight_decay": 0.01, "gradient_scale": 1.0 if step % 3 else 0.3, "step": step, "adapt": True}
    return LambSettings(**values | changes)


@pytest.mark.parametrize("changes", [{}, {"adapt": False}, {"weight_decay": 0.0}, {"epsilon": 0.01}])
def test_lamb(ipex: Operations, changes: dict[str, Any]) -> None:
    """Parameters of several sizes, one that starts at 0 and one with gradient 0; some steps are clipped."""
    weights = [draw(size, seed=size, spread=0.02) for size in (1, 17, 1000, 65537)]
    weights += [torch.zeros(40, dtype=torch.float64), draw(40, seed=1)]
    single, double = ([LambArrays(weight.to(dtype, copy=True), *torch.zeros(3, len(weight), dtype=dtype))
                       for weight in weights] for dtype in (torch.float32, torch.float64))  # fmt: skip
    for step in range(1, 11):
        settings = lamb_settings(step, **changes)
        for number, (ours, theirs) in enumerate(zip(single, double, strict=True)):
            if number < 5:
                theirs.gradient.copy_(draw(len(theirs.weight), seed=100 * step + number, spread=10.0 ** (number - 4)))
            ours.gradient.copy_(theirs.gradient)
            if number == 5:
                ours.gradient.zero_()
        ipex.lamb(single, settings)
        for theirs in double:
            update_parameter(theirs, settings)
    for ours, theirs in zip(single, double, strict=True):
        for name in ("weight", "mean", "mean_square"):
            found, expected = getattr(ours, name).double(), getattr(theirs, name)
            assert float((found - expected).abs().max()) <= 1e-5 * float(expected.abs().max()), name


def test_the_ratio_of_a_large_parameter(ipex: Operations) -> None:
    """The step is accurate to 1e-6 for 16 million elements, whose norms IPEX's kernel sums in float32."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(1 << 24, generator=generator)
    gradient = torch.randn(1 << 24, generator=generator)
    settings = lamb_settings(1)
    before = weight.clone()
    expected = [LambArrays(*(value.clone() for value in (weight, gradient)), *torch.zeros(2, 1 << 24))]
    update_parameter(expected[0], settings)
    ipex.lamb([LambArrays(weight, gradient, *torch.zeros(2, 1 << 24))], settings)
    ours, theirs = ((after - before).double().norm() for after in (weight, expected[0].weight))
    assert float(ours) == pytest.approx(float(theirs), rel=1e-6)


def test_gradients_in_another_layout(ipex: Operations) -> None:
    weight, gradient = draw(30, 20, seed=1).float(), draw(20, 30, seed=2).float()
    ours = LambArrays(weight.clone(), gradient.t(), *torch.zeros(2, 30, 20))
    theirs = LambArrays(weight.clone(), gradient.t().contiguous(), *torch.zeros(2, 30, 20))
    ipex.lamb([ours], lamb_settings(1))
    update_parameter(theirs, lamb_settings(1))
    assert_close({"weight": ours.weight}, {"weight": theirs.weight.double()}, 1e-6)


@pytest.mark.parametrize("rate", [0.0, 0.01, 0.02])
def test_the_rate_of_every_step_counts(ipex: Operations, rate: float) -> None:
    """The length of a step is proportional to its rate, in the first update and later ones; rate 0 changes nothing."""
    arrays = LambArrays(draw(64, seed=1).float(), draw(64, seed=2).float(), *torch.zeros(2, 64))
    for step in (1, 2):
        arrays.gradient.copy_(draw(64, seed=step))
        before = arrays.weight.clone()
        ipex.lamb([arrays], lamb_settings(step, rate=rate))
        assert float((arrays.weight - before).norm() / before.norm()) == pytest.approx(rate, rel=1e-4)
