"""The loop that measures the CPU's peak does what it counts, on every thread."""

from __future__ import annotations

import pytest
import torch
from bert_large.engines.native.build import load_kernels


@pytest.mark.parametrize("bfloat16", [False, True])
def test_operations_grow_with_iterations_and_threads(bfloat16: bool) -> None:
    load_kernels()
    count = torch.ops.bert_large.multiply_registers
    threads = torch.get_num_threads()
    one = count(1600, bfloat16)
    assert one > 0 and count(3200, bfloat16) == 2 * one
    try:
        torch.set_num_threads(1)
        assert count(1600, bfloat16) * threads == one
    finally:
        torch.set_num_threads(threads)
