"""Micro-batches of new sizes cost nothing extra in bf16: oneDNN compiles no code for them."""

from __future__ import annotations

import subprocess
import sys

import pytest
from bert_large.engines.native.products import has_products

from tests.support.runs import process_environment

SCRIPT = """
import torch
from bert_large.engines.native import NativeEngine
from tests.unit.engines.native_cases import attention_case, feed_forward_case, head_case
native = NativeEngine()
for lengths in ([70, 60], [5, 17], [129]):
    print("lengths", *lengths, flush=True)
    for case in (
        attention_case(lengths, hidden=64, heads=2), feed_forward_case(lengths, hidden=64, wide=128),
        head_case(sum(lengths) // 2, hidden=64, tokens=sum(lengths)),
    ):
        case.backward(case.forward(native, case.leaves(torch.bfloat16), torch.bfloat16))
torch.mm(torch.ones(100, 64).bfloat16(), torch.ones(64, 64).bfloat16())
"""


def test_nothing_is_compiled_for_new_sizes() -> None:
    """The script's last product, which is PyTorch's, shows that the log has what is compiled."""
    if not has_products():
        pytest.skip("bf16 products are PyTorch's on this CPU")
    environment = process_environment() | {"ONEDNN_VERBOSE": "profile_create"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    *_, last = done.stdout.partition("lengths 5 17")
    created = [line for line in last.splitlines() if "create:cache_miss" in line]
    assert len(created) == 1 and "100x64:64x64" in created[0], created
