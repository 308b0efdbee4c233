"""The native engine's LAMB and global norm, against float64."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from bert_large.engines.native import NativeEngine
from bert_large.optim.lamb import LambArrays, update_parameter

from tests.support.operations import draw
from tests.unit.engines.native_cases import arrays_of, settings

SIZES = [1, 15, 16, 17, 1000, 65536, 65537]


@pytest.mark.parametrize("adapt", [False, True])
def test_lamb(native: NativeEngine, adapt: bool) -> None:
    """Twenty steps with parameters of all sizes, one of which starts at 0; some steps are clipped."""
    weights = [draw(size, seed=size, spread=0.02) for size in SIZES] + [torch.zeros(40, dtype=torch.float64)]
    single, double = ([LambArrays(weight.to(dtype, copy=True), *torch.zeros(3, len(weight), dtype=dtype))
                       for weight in weights] for dtype in (torch.float32, torch.float64))  # fmt: skip
    for step in range(1, 21):
        step_settings = settings(step, rate=0.01 / step, scale=1.0 if step % 3 else 0.3, adapt=adapt)
        for number, (ours, theirs) in enumerate(zip(single, double, strict=True)):
            theirs.gradient.copy_(draw(len(theirs.weight), seed=100 * step + number, spread=10.0 ** (number - 4)))
            ours.gradient.copy_(theirs.gradient)
        native.lamb(single, step_settings)
        for theirs in double:
            update_parameter(theirs, step_settings)
    for before, ours, theirs in zip(weights, single, double, strict=True):
        assert not torch.equal(theirs.weight, before)
        for name, tolerance in (("weight", 1e-5), ("mean", 1e-5), ("mean_square", 1e-5)):
            found, expected = getattr(ours, name).double(), getattr(theirs, name)
            difference = float((found - expected).abs().max() / expected.abs().max())
            assert difference < tolerance, (len(before), name, difference)


def lamb_results(native: NativeEngine, threads: int) -> tuple[list[torch.Tensor], float]:
    torch.set_num_threads(threads)
    arrays = []
    for size in (*SIZES, 200_001):
        weight = draw(size, seed=size).float()
        weight.grad = draw(size, seed=size + 1).float()
        arrays.append(arrays_of(weight))
    for step in (1, 2):
        native.lamb(arrays, settings(step))
    return [entry.weight for entry in arrays], native.global_norm([entry.gradient for entry in arrays])


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_lamb_is_the_same_for_any_number_of_threads(native: NativeEngine, threads: int) -> None:
    """Updates and norm are bit-identical."""
    (expected, expected_norm), (found, norm) = lamb_results(native, 1), lamb_results(native, threads)
    assert norm == expected_norm
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))


def test_lamb_without_a_gradient(native: NativeEngine) -> None:
    """With a gradient of 0 and no weight decay the ratio is 1, not 0/0."""
    weight = draw(33, seed=1).float()
    before = weight.clone()
    native.lamb([arrays_of(weight)], dataclasses.replace(settings(1), weight_decay=0.0))
    assert torch.equal(weight, before)


def test_global_norm(native: NativeEngine) -> None:
    """In float64, for tensors of any shape, with squares outside of float32's range; 0 for no tensors."""
    tensors = [draw(size, seed=size).float() for size in SIZES] + [draw(3, 5, 7, seed=1).float()]
    squares = torch.cat([tensor.flatten() for tensor in tensors]).double().square()
    assert native.global_norm(tensors) == pytest.approx(math.sqrt(math.fsum(squares.tolist())), rel=1e-14)
    assert native.global_norm([torch.full((100,), 1e30)]) == pytest.approx(1e31, rel=1e-6)
    assert native.global_norm([torch.full((100,), 1e-30)]) == pytest.approx(1e-29, rel=1e-6)
    assert native.global_norm([]) == 0.0
