"""The native engine's operations against the eager engine's in float64: results and all gradients."""

from __future__ import annotations

import pytest
import torch
from bert_large.engines.native import NativeEngine

from tests.support.operations import Case, assert_close, assert_identical, draw, relative_error
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
    """Gradients of tokens that share a row of a table add up; rows without a token get 0."""
    check(native, embedding_case(lengths, dropout=dropout))


@LENGTHS
@DROPOUT
@pytest.mark.parametrize("activation", ["gelu", "gelu_pytorch_tanh"])
def test_feed_forward(native: NativeEngine, lengths: list[int], dropout: bool, activation: str) -> None:
    check(native, feed_forward_case(lengths, activation=activation, dropout=dropout))


@pytest.mark.parametrize("hidden", [3, 7, 15, 17, 100])
def test_odd_hidden_sizes(native: NativeEngine, hidden: int) -> None:
    """With odd intermediate sizes and vocabularies."""
    check(native, embedding_case([9, 4], hidden=hidden))
    check(native, attention_case([9, 4], hidden=hidden, heads=1))
    check(native, feed_forward_case([9, 4], hidden=hidden, wide=2 * hidden + 1))
    check(native, head_case(11, hidden=hidden, vocab_size=2 * hidden + 1))


def test_sizes_of_1(native: NativeEngine) -> None:
    """A head size, intermediate size and vocabulary of 1, a single token, and a single sequence."""
    for lengths in ([1], [2], [1, 1], [9, 4]):
        check(native, attention_case(lengths, hidden=8, heads=8))
        check(native, feed_forward_case(lengths, hidden=8, wide=1))
    check(native, head_case(1, hidden=8, vocab_size=1, tokens=1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_hidden_size_of_1(native: NativeEngine, dtype: torch.dtype) -> None:
    """LayerNorm of one column is its bias, with a gradient of 0 for all that comes before it.

    Its factor 1 / sqrt(eps) of 1e6 multiplies the rounding of gradients, 2^-24 of values of about 1: 6% is left of it.
    """
    lengths = [9, 4]
    for case in (embedding_case(lengths, 1), attention_case(lengths, 1, 1), feed_forward_case(lengths, 1)):
        found, expected = case.results(native, dtype), case.results(EAGER, torch.float64)
        for name, value in expected.items():
            assert float((found[name].double() - value).abs().max()) < 0.5 + 0.01 * float(value.abs().max()), name


def test_rows_with_little_spread_in_bf16(native: NativeEngine) -> None:
    """LayerNorm's input has a spread below bfloat16's rounding of its mean: forward and backward pass agree on it."""
    case = feed_forward_case([9, 4], dropout=False)
    case.values["hidden"] *= 1e-3
    case.values["output.weight"] *= 1e-3
    case.values["output.bias"] = 1 + 1e-3 * case.values["output.bias"]
    found, expected = case.results(native, torch.bfloat16), case.results(EAGER, torch.float64)
    for name, value in expected.items():
        assert relative_error(found[name], value) < 3e-2, name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_empty_sequences(native: NativeEngine, dtype: torch.dtype) -> None:
    """Sequences without tokens between others change nothing; a batch without sequences is valid."""
    qkv, bias, gradient = draw(4, 18, seed=1).to(dtype), draw(18, seed=2).float(), draw(4, 6, seed=3).to(dtype)

    def run(ends: list[int], samples: list[int], tokens: int) -> list[torch.Tensor]:
        cu_seqlens = torch.tensor(ends, dtype=torch.int32)
        site = (cu_seqlens, torch.tensor(samples, dtype=torch.int64), 2, 0.3, 5)
        context, log_sums = torch.empty(tokens, 6, dtype=dtype), torch.empty(2, tokens)
        results = [context, log_sums, qkv[:tokens].clone(), torch.zeros(18)]
        torch.ops.bert_large.attention(results[2], bias, *site, context, log_sums)
        torch.ops.bert_large.attention_gradient(
            results[2], bias, *site, context, log_sums, gradient[:tokens], results[3]
        )
        return results

    for found, expected in zip(run([0, 0, 3, 3, 4, 4], [7, 1, 8, 2, 9], 4), run([0, 3, 4], [1, 2], 4), strict=True):
        assert torch.equal(found, expected)
    assert not run([0], [], 0)[3].any()


def test_sizes_of_bert_large(native: NativeEngine) -> None:
    """1024 hidden, 16 heads, 4096 intermediate, few tokens; and the vocabulary."""
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
    """Over two backward passes: to no gradient, to the first pass's gradient, and to tensors of the caller."""
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
    """Those of query, key and value are parts of one tensor, but changing one changes no other."""
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
    """A frozen parameter gets no gradient, and all others get theirs."""
    check(native, CASES[name](), frozen=frozen)


@every_case
def test_a_second_backward_pass_is_refused(native: NativeEngine, case: Case) -> None:
    """Kernels overwrite what the forward pass saved, so a second pass would be wrong."""
    out = case.forward(native, case.leaves(torch.float32), torch.float32)
    out.sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="backward"):
        out.sum().backward()


@every_case
def test_repeated_runs_are_identical(native: NativeEngine, case: Case) -> None:
    torch.set_num_threads(2)
    first = case.results(native, torch.float32)
    for _ in range(3):
        assert_identical(case.results(native, torch.float32), first)
