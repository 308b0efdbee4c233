"""Which rows of a padded batch are computed, and attention to the first rows of a sequence only."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from bert_large.engines.native import NativeEngine
from torch import Tensor

pytest.importorskip("transformers", minversion="5", reason="needs Hugging Face's transformers")

from bert_large.hugging_face.fallback import UnsupportedError
from bert_large.hugging_face.padding import find_rows, real_tokens

from tests.support.operations import draw

REAL = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1], [0, 1, 1, 0]]).bool()
FLOAT = torch.zeros(3, 4).masked_fill(~REAL, torch.finfo(torch.float32).min)[:, None, None]
INFINITE = torch.zeros(3, 4).masked_fill(~REAL, -math.inf)[:, None, None]
BOOL = REAL[:, None, None]


@pytest.mark.parametrize("mask", [FLOAT, INFINITE, BOOL, BOOL.expand(3, 1, 4, 4), BOOL.repeat(1, 1, 4, 1),
                                  FLOAT.double().clamp(min=torch.finfo(torch.float64).min).masked_fill(
                                      ~BOOL, torch.finfo(torch.float64).min)])  # fmt: skip
def test_real_tokens(mask: Tensor) -> None:
    found = real_tokens(mask, 3, 4)
    assert found is not None and torch.equal(found, REAL)


def test_one_mask_for_all_sequences() -> None:
    found = real_tokens(BOOL[:1], 3, 4)
    assert found is not None and torch.equal(found, REAL[:1].expand(3, 4)) and real_tokens(None, 3, 4) is None


@pytest.mark.parametrize("mask", [
    torch.ones(4, 4).tril().bool().expand(3, 1, 4, 4), BOOL.expand(3, 2, 4, 4), BOOL[:2], REAL, BOOL[..., :3],
    FLOAT / 2, FLOAT + 1, BOOL.long(), "mask", BOOL.expand(3, 1, 2, 4),
])  # fmt: skip
def test_other_masks_are_refused(mask: Any) -> None:
    with pytest.raises(UnsupportedError):
        real_tokens(mask, 3, 4)


def test_rows() -> None:
    """The first row of the third sequence is computed, comes last in it, and is not attended to."""
    rows = find_rows(BOOL, 3, 4)
    assert rows.places is not None and rows.keys is not None
    assert rows.places.tolist() == [0, 1, 4, 5, 6, 7, 9, 10, 8]
    assert rows.cu_seqlens.tolist() == [0, 2, 6, 9] and rows.keys.tolist() == [2, 4, 2]
    assert rows.sequence_ids.tolist() == [0, 0, 1, 1, 1, 1, 2, 2, 2]
    assert rows.position_ids.tolist() == [0, 1, 0, 1, 2, 3, 0, 1, 2]
    padded = torch.arange(1.0, 25.0).view(3, 4, 2)
    kept = REAL.clone()
    kept[2, 0] = True
    assert torch.equal(rows.scatter(rows.gather(padded), padded.shape), padded * kept.unsqueeze(-1))


def test_all_rows() -> None:
    rows = find_rows(BOOL, 3, 4, all_rows=True)
    assert rows.places is not None and rows.keys is not None
    assert rows.places.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 8, 11] and rows.keys.tolist() == [2, 4, 2]


@pytest.mark.parametrize("mask", [None, torch.ones(3, 1, 1, 4).bool()])
@pytest.mark.parametrize("all_rows", [False, True])
def test_no_padding(mask: Tensor | None, all_rows: bool) -> None:
    rows = find_rows(mask, 3, 4, all_rows=all_rows)
    assert rows.places is None and rows.keys is None and rows.cu_seqlens.tolist() == [0, 4, 8, 12]


def test_a_sequence_without_tokens_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="no token"):
        find_rows(BOOL & torch.tensor([True, False, True])[:, None, None, None], 3, 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_to_the_first_rows(dtype: torch.dtype) -> None:
    """Lengths around the kernels' blocks, forward and backward, against PyTorch in float64."""
    NativeEngine()
    lengths, keys, heads, size = [5, 70, 130, 16, 1], [2, 64, 65, 16, 1], 2, 24
    width, tokens = heads * size, sum(lengths)
    qkv, bias = draw(tokens, 3 * width, seed=1).to(dtype), draw(3 * width, seed=2).float()
    gradient = draw(tokens, width, seed=3).to(dtype)
    ends = torch.tensor([0, *lengths]).cumsum(0).int()
    places = (qkv, bias, ends, torch.arange(len(lengths)), heads, 0.0, 0)
    context, log_sums = torch.empty(tokens, width, dtype=dtype), torch.empty(heads, tokens)
    attended = torch.tensor(keys, dtype=torch.int32)
    torch.ops.bert_large.attention(*places, context, log_sums, attended)
    leaf, leaf_bias = qkv.double().requires_grad_(), bias.double().requires_grad_()
    found, found_bias = qkv, torch.zeros_like(bias)
    torch.ops.bert_large.attention_gradient(*places, context, log_sums, gradient, found_bias, attended)

    parts = []
    for rows, count in zip((leaf + leaf_bias).split(lengths), keys, strict=True):
        query, key, value = (part.unflatten(1, (heads, size)).transpose(0, 1) for part in rows.chunk(3, dim=1))
        scores = query @ key[:, :count].transpose(1, 2) / math.sqrt(size)
        parts.append((scores.softmax(dim=-1) @ value[:, :count]).transpose(0, 1).flatten(1))
    expected = torch.cat(parts)
    expected.backward(gradient.double())
    assert leaf.grad is not None and leaf_bias.grad is not None
    for ours, theirs in ((context, expected), (found, leaf.grad), (found_bias, leaf_bias.grad)):
        error = float((ours.double() - theirs).norm() / theirs.norm())
        assert error < (2e-6 if dtype == torch.float32 else 0.01)


@pytest.mark.parametrize("keys", [[0, 3], [2, 4], [-1, 3]])
def test_wrong_numbers_of_keys_are_refused(keys: list[int]) -> None:
    NativeEngine()
    places = (torch.zeros(5, 24), torch.zeros(24), torch.tensor([0, 2, 5]).int(), torch.arange(2), 2, 0.0, 0)
    with pytest.raises(IndexError, match="keys"):
        torch.ops.bert_large.attention(
            *places, torch.empty(5, 8), torch.empty(2, 5), torch.tensor(keys, dtype=torch.int32)
        )
