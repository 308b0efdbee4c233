"""The native engine's attention: sizes around the kernels' block sizes, extreme scores, any number of threads."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from bert_large.engines.native import NativeEngine

from tests.support.operations import assert_close, batch_of, draw
from tests.unit.engines.native_cases import DROPOUT, EAGER, LENGTHS, SITE, attention_case, check


@LENGTHS
@DROPOUT
def test_attention(native: NativeEngine, lengths: list[int], dropout: bool) -> None:
    check(native, attention_case(lengths, dropout=dropout))


@pytest.mark.parametrize("head_size", [8, 16, 24, 64, 80, 128, 3])
@DROPOUT
def test_head_sizes(native: NativeEngine, head_size: int, dropout: bool) -> None:
    check(native, attention_case([33, 2, 70], hidden=3 * head_size, heads=3, dropout=dropout))


@pytest.mark.parametrize("length", [*range(1, 20), 31, 32, 33, 47, 48, 49, 95, 96, 97, 127, 129, 191, 193, 511])
def test_lengths_around_block_sizes(native: NativeEngine, length: int) -> None:
    """The width of vectors, tiles, panels and query blocks."""
    check(native, attention_case([length], hidden=32, heads=2))


def test_samples_beyond_32_bits(native: NativeEngine) -> None:
    """The mask depends on both halves of a sample's number."""
    batch = dataclasses.replace(batch_of([20, 20]), samples=torch.tensor([5, 5 + (3 << 32)]))
    check(native, attention_case([], batch=batch))


def test_large_scores(native: NativeEngine) -> None:
    """Softmax where only the largest score counts, and others are far below the range of exp."""
    case = attention_case([33, 64])
    case.values["query.weight"] *= 100
    found, expected = case.results(native, torch.float32), case.results(EAGER, torch.float64)
    for values in (found, expected):  # these contain the scores' rounding, multiplied by 100
        del values["query.weight"], values["key.weight"], values["query.bias"], values["key.bias"], values["hidden"]
    assert_close(found, expected, 1e-3)


def attention_kernel(threads: int, dtype: torch.dtype) -> list[torch.Tensor]:
    """Return the results of the attention kernels alone, forward and backward."""
    torch.set_num_threads(threads)
    batch, hidden, heads = batch_of([70, 3, 1, 130, 64, 9]), 48, 3
    qkv, bias = draw(batch.tokens, 3 * hidden, seed=1).to(dtype), draw(3 * hidden, seed=2).float()
    context, log_sums = torch.empty(batch.tokens, hidden, dtype=dtype), torch.empty(heads, batch.tokens)
    places = (qkv, bias, batch.cu_seqlens, batch.samples, heads, SITE.probability, SITE.key)
    torch.ops.bert_large.attention(*places, context, log_sums)
    bias_gradient, gradient = torch.zeros_like(bias), draw(*context.shape, seed=3).to(dtype)
    torch.ops.bert_large.attention_gradient(*places, context, log_sums, gradient, bias_gradient)
    return [context, log_sums, qkv, bias_gradient]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("threads", [2, 3])
def test_attention_is_the_same_for_any_number_of_threads(
    native: NativeEngine, dtype: torch.dtype, threads: int
) -> None:
    for one, several in zip(attention_kernel(1, dtype), attention_kernel(threads, dtype), strict=True):
        assert torch.equal(one, several)


@pytest.mark.parametrize("place", ["query.weight", "key.weight", "value.weight", "hidden"])
def test_nan_is_not_hidden(native: NativeEngine, place: str) -> None:
    """NaN in an input gives NaN in the same results as on eager."""
    case = attention_case([5, 20])
    case.values[place][3] = float("nan")
    found, expected = (case.apply(engine, case.leaves(dtype)) for engine, dtype in
                       ((native, torch.float32), (EAGER, torch.float64)))  # fmt: skip
    assert torch.equal(found.isnan(), expected.isnan()) and bool(found.isnan().any())
