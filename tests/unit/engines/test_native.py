"""The native engine's operations against the eager engine's in double precision: results and all gradients."""

from __future__ import annotations

import pytest
import torch
from bert_large.engines.native import NativeEngine

from tests.support.operations import Case, assert_close, assert_identical
from tests.unit.engines.native_cases import (
    CASES,
    DROPOUT,
    EAGER,
    LENGTHS,
    TOLERANCE,
    attention_case,
    check,
    embedding_case,
    every_case,
    feed_forward_case,
    head_case,
)


@LENGTHS
@DROPOUT
def test_embedding(native: NativeEngine, lengths: list[int], dropout: bool) -> None:
    """Tokens, positions and types that share a table's row add up there; rows that none has get 0."""
    check(native, embedding_case(lengths, dropout=dropout))


@LENGTHS
@DROPOUT
@pytest.mark.parametrize("activation", ["gelu", "gelu_pytorch_tanh"])
def test_feed_forward(native: NativeEngine, lengths: list[int], dropout: bool, activation: str) -> None:
    check(native, feed_forward_case(lengths, activation=activation, dropout=dropout))


@pytest.mark.parametrize("hidden", [3, 7, 15, 17, 100])
def test_odd_hidden_sizes(native: NativeEngine, hidden: int) -> None:
    """Intermediate sizes and vocabularies odd too."""
    check(native, embedding_case([9, 4], hidden=hidden))
    check(native, attention_case([9, 4], hidden=hidden, heads=1))
    check(native, feed_forward_case([9, 4], hidden=hidden, wide=2 * hidden + 1))
    check(native, head_case(11, hidden=hidden, vocab_size=2 * hidden + 1))


def test_sizes_of_bert_large(native: NativeEngine) -> None:
    """1024 hidden, 16 heads, 4096 intermediate, few tokens; and its vocabulary."""
    check(native, embedding_case([3, 9], hidden=1024))
    check(native, attention_case([3, 9], hidden=1024, heads=16))
    check(native, feed_forward_case([3, 9], hidden=1024, wide=4096))
    check(native, head_case(5, hidden=64, vocab_size=30522))


@every_case
@pytest.mark.parametrize("scale", [0.0, 1e-4, -3.0])
def test_scale_of_the_gradient(native: NativeEngine, case: Case, scale: float) -> None:
    check(native, case, scale=scale)


@every_case
def test_gradients_add_up(native: NativeEngine, case: Case) -> None:
    """Over two backward passes: into no gradient, into what a first pass left, and into tensors of the caller's."""
    leaves, reference = case.leaves(torch.float32), case.leaves(torch.float64)
    separate = case.leaves(torch.float32)
    for leaf in separate.values():
        leaf.grad = torch.zeros_like(leaf)
    mine = {name: leaf.grad for name, leaf in separate.items()}
    for scale in (1.0, 0.5):
        case.backward(case.forward(native, leaves, torch.float32), scale)
        case.backward(case.forward(native, separate, torch.float32), scale)
        case.backward(case.forward(EAGER, reference, torch.float64), scale)
    expected = {name: leaf.grad for name, leaf in reference.items() if leaf.grad is not None}
    for found in (leaves, separate):
        assert_close({name: leaf.grad for name, leaf in found.items() if leaf.grad is not None}, expected, TOLERANCE)
    for name, leaf in separate.items():
        assert leaf.grad is mine[name], name


def test_fresh_gradients_do_not_share(native: NativeEngine) -> None:
    """Those of query, key and value lie in one tensor; each is changed alone."""
    leaves = attention_case([9]).leaves(torch.float32)
    case = attention_case([9])
    case.backward(case.forward(native, leaves, torch.float32))
    query, key, value = (leaves[f"{name}.weight"].grad for name in ("query", "key", "value"))
    assert query is not None and key is not None and value is not None
    kept = query.clone(), value.clone()
    key.zero_()
    assert torch.equal(query, kept[0]) and torch.equal(value, kept[1])


@pytest.mark.parametrize(
    ("name", "frozen"),
    [(name, (value,)) for name, make in CASES.items() for value in make().values],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_frozen_parameters(native: NativeEngine, name: str, frozen: tuple[str, ...]) -> None:
    """Each alone: it gets no gradient, all others get theirs."""
    check(native, CASES[name](), frozen=frozen)


@every_case
def test_a_second_backward_pass_is_refused(native: NativeEngine, case: Case) -> None:
    """Kernels work in place on what the forward pass left, so results would be wrong."""
    out = case.forward(native, case.leaves(torch.float32), torch.float32)
    out.sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="second time"):
        out.sum().backward()


@every_case
def test_repeated_runs_are_identical(native: NativeEngine, case: Case) -> None:
    torch.set_num_threads(2)
    first = case.results(native, torch.float32)
    for _ in range(3):
        assert_identical(case.results(native, torch.float32), first)
