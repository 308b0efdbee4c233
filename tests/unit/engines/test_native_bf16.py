"""The native engine in bfloat16: as accurate as eager, float32 sums, and its copies of weights."""

from __future__ import annotations

import pytest
import torch
from bert_large.engines.native import NativeEngine

from tests.support.operations import Case, relative_error
from tests.unit.engines.native_cases import (
    CASES,
    EAGER,
    arrays_of,
    attention_case,
    every_case,
    feed_forward_case,
    head_case,
    settings,
)


@pytest.mark.parametrize(
    "case",
    [
        *(make() for make in CASES.values()),
        attention_case([512, 1, 300, 33]),
        attention_case([33, 2, 70], hidden=72, heads=3),
        attention_case([65, 1], hidden=128, heads=2),
        attention_case([31, 32], hidden=240, heads=3, dropout=False),
        feed_forward_case([3, 9], hidden=1024, wide=4096, activation="gelu_pytorch_tanh"),
        head_case(600, vocab_size=1003),
        head_case(0),
    ],
    ids=lambda case: f"{len(case.values)}-{next(iter(case.values.values())).shape[0]}",
)
def test_bf16(native: NativeEngine, case: Case) -> None:
    """Inside autocast, as near to float64 as eager is; gradients of parameters are float32.

    One rounding to bfloat16 has an error of up to 2^-9 = 0.2%, and several follow one another.
    """
    expected = case.results(EAGER, torch.float64)
    ours, theirs = (case.results(engine, torch.bfloat16) for engine in (native, EAGER))
    for name, value in ours.items():
        is_activation = name == "hidden" or (name == "out" and value.dim() > 0)
        assert value.dtype == (torch.bfloat16 if is_activation else torch.float32), name
    for name, value in expected.items():
        if name == "key.bias":  # the exact value is 0
            assert float(ours[name].abs().max()) < 2e-2 * float(expected["query.bias"].abs().max())
        elif value.any():
            error = relative_error(ours[name], value)
            assert error < 4e-2 and error < 1.5 * relative_error(theirs[name], value) + 4e-3, f"{name}: {error:.1e}"
        else:
            assert not ours[name].any(), name


@every_case
def test_bf16_gradients_add_up(native: NativeEngine, case: Case) -> None:
    """In float32 over eight passes: the sum is not rounded to bfloat16."""
    leaves = case.leaves(torch.bfloat16)
    once = case.results(native, torch.bfloat16)
    for _ in range(8):
        case.backward(case.forward(native, leaves, torch.bfloat16))
    for name in set(once) - {"out", "hidden"}:
        gradient = leaves[name].grad
        assert gradient is not None and relative_error(gradient, 8 * once[name].double()) < 1e-6, name


@pytest.mark.parametrize("changed", ["query.weight", "key.weight", "value.weight", "output.weight"])
def test_copies_of_weights_are_renewed(native: NativeEngine, changed: str) -> None:
    """In both precisions, after an in-place change of any of the weights that are copied as one."""
    case = attention_case([9, 4])
    for dtype in (torch.float32, torch.bfloat16):
        leaves = case.leaves(dtype)
        before = case.forward(native, leaves, dtype)
        assert torch.equal(case.forward(native, leaves, dtype), before)
        with torch.no_grad():
            leaves[changed].neg_()
        fresh = {name: leaf.detach().clone() for name, leaf in leaves.items()}
        after = case.forward(native, leaves, dtype)
        assert torch.equal(after, case.forward(NativeEngine(), fresh, dtype))
        assert not torch.equal(after, before)


def test_copies_of_weights_are_renewed_after_a_step(native: NativeEngine) -> None:
    """LAMB's kernel writes to weights without autograd seeing it."""
    case = feed_forward_case([9, 4])
    leaves = case.leaves(torch.bfloat16)
    out = case.forward(native, leaves, torch.bfloat16)
    case.backward(out)
    native.lamb([arrays_of(leaf) for name, leaf in leaves.items() if name != "hidden"], settings(1, rate=0.5))
    fresh = {name: leaf.detach().clone() for name, leaf in leaves.items()}
    after = case.forward(native, leaves, torch.bfloat16)
    assert torch.equal(after, case.forward(NativeEngine(), fresh, torch.bfloat16))
    assert not torch.equal(after, out)


def test_both_precisions_of_one_model(native: NativeEngine) -> None:
    """In turn, as training and evaluation in different precisions would use it."""
    case = attention_case([9, 4])
    expected = {dtype: case.results(native, dtype) for dtype in (torch.float32, torch.bfloat16)}
    leaves = case.leaves(torch.float32)
    for dtype in (torch.float32, torch.bfloat16, torch.float32):
        given = leaves | {"hidden": leaves["hidden"].to(dtype)}
        assert torch.equal(case.forward(native, given, dtype), expected[dtype]["out"])
