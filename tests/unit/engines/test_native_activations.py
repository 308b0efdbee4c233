"""The native engine's activations: their memory is reused, and the backward pass frees it."""

from __future__ import annotations

import gc

import torch
from bert_large.engines.native import NativeEngine
from bert_large.engines.native.memory import Rows

from tests.unit.engines.native_cases import feed_forward_case


def test_smaller_batches_use_the_same_blocks() -> None:
    """Activations have memory for the rows of the largest batch, so new sizes take no more."""
    native = NativeEngine()
    kept = []
    for length in (512, 300, 411, 130):
        case = feed_forward_case([length], hidden=64, wide=8192)
        case.forward(native, case.leaves(torch.float32), torch.float32)
        gc.collect()
        kept.append(sum(torch.ops.bert_large.memory()))
    assert max(kept) - kept[0] < 12 << 20  # matrices of each size would add 30 MB


def test_few_rows_take_little_memory() -> None:
    """Those that heads read have sizes of their own, in whatever order the matrices are made."""
    rows = Rows()
    for count, kept in ((700, 700), (4096, 4096), (3000, 4096), (900, 900), (1100, 4096), (16, 16), (0, 0), (0, 0)):
        matrix = rows.empty(count, 8, dtype=torch.float32)
        assert matrix.shape == (count, 8) and matrix.untyped_storage().nbytes() == kept * 8 * 4


def test_activations_are_freed_by_the_backward_pass() -> None:
    """Although the loss still exists: the next micro-batch's forward pass needs the memory."""
    native = NativeEngine()
    case = feed_forward_case([512], hidden=64, wide=2048)
    leaves = case.leaves(torch.float32)
    before = torch.ops.bert_large.memory()[0]
    out = case.forward(native, leaves, torch.float32)
    assert torch.ops.bert_large.memory()[0] - before == 2 * 512 * 2048 * 4
    case.backward(out)
    assert torch.ops.bert_large.memory()[0] == before  # the gradients here are smaller than the blocks that are counted
