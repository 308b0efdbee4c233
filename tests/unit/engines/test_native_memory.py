"""The allocator that keeps large blocks: reuse, release, and memory of others."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from bert_large.engines.native import NativeEngine
from torch.nn import functional

from tests.support.runs import process_environment

MEGABYTE = 1 << 20


@pytest.fixture(autouse=True)
def keeper() -> Iterator[None]:
    """The allocator is in place, and tensors of other tests are freed."""
    NativeEngine()
    gc.collect()
    yield


def memory_use() -> tuple[int, int]:
    """Return bytes in use and bytes kept."""
    in_use, kept = torch.ops.bert_large.memory()
    return in_use, kept


def of_bytes(count: int) -> torch.Tensor:
    return torch.empty(count, dtype=torch.uint8)


def test_a_block_is_used_again() -> None:
    """A freed tensor's memory is kept, and the next tensor of about its size gets it."""
    in_use, _ = memory_use()
    first = of_bytes(48 * MEGABYTE)
    assert memory_use()[0] == in_use + 48 * MEGABYTE
    address, kept = first.data_ptr(), memory_use()[1]
    del first
    assert memory_use() == (in_use, kept + 48 * MEGABYTE)
    second = of_bytes(48 * MEGABYTE - 1000)
    assert second.data_ptr() == address
    assert memory_use() == (in_use + 48 * MEGABYTE, kept)


@pytest.mark.parametrize(
    ("wanted", "block"),
    [(1 << 20, 1 << 20), ((1 << 20) + 1, 5 << 18), ((7 << 18) + 1, 2 << 20), ((100 << 20) + 1, 112 << 20)],
)
def test_sizes_of_blocks(wanted: int, block: int) -> None:
    """Steps of a quarter of a power of two, from a megabyte up."""
    before = memory_use()[0]
    tensor = of_bytes(wanted)
    assert memory_use()[0] - before == block
    assert tensor.data_ptr() % 64 == 0
    tensor.fill_(7)
    assert int(tensor[-1]) == 7


def test_what_a_kernel_needs_briefly_may_be_larger() -> None:
    """Up to four times: 16 MB of float32 rows that the kernel gives back."""
    tokens, hidden = 2048, 2048
    tables = [torch.ones(3, hidden) for _ in range(3)]
    ids, places = torch.zeros(tokens, dtype=torch.int64), torch.zeros(tokens, dtype=torch.int64)
    gradients = [torch.zeros(3, hidden) for _ in range(3)]
    out_gradient, norms = torch.ones(tokens, hidden), [torch.ones(hidden) for _ in range(3)]
    waiting = of_bytes(20 * MEGABYTE)
    del waiting
    before = memory_use()
    torch.ops.bert_large.embed_norm_gradient(
        out_gradient, *tables, ids, ids, ids, torch.zeros(tokens), torch.ones(tokens), norms[0], places, ids, 0.0, 0,
        *gradients, *norms[1:],
    )  # fmt: skip
    assert memory_use() == before


def test_small_tensors_are_not_kept() -> None:
    before = memory_use()
    tensor = of_bytes(MEGABYTE - 1)
    assert memory_use() == before
    del tensor
    assert memory_use() == before


def test_blocks_in_use_are_not_shared() -> None:
    tensors = [of_bytes(2 * MEGABYTE).fill_(value) for value in range(20)]
    assert len({tensor.data_ptr() for tensor in tensors}) == 20
    assert all(bool((tensor == value).all()) for value, tensor in enumerate(tensors))


def test_views_keep_the_block() -> None:
    """It is freed with the last of them."""
    before = memory_use()[0]
    tensor = of_bytes(4 * MEGABYTE)
    view = tensor[10:20]
    del tensor
    assert memory_use()[0] == before + 4 * MEGABYTE
    del view
    assert memory_use()[0] == before


def test_memory_of_others_is_left_alone() -> None:
    """NumPy's, which PyTorch neither allocates nor frees."""
    before = memory_use()
    array = np.arange(1 << 20)
    tensor = torch.from_numpy(array)
    assert memory_use() == before
    del tensor
    assert int(array.sum()) == (1 << 19) * ((1 << 20) - 1)


@pytest.mark.parametrize("rows", [3, 3000])
def test_memory_that_libraries_take(rows: int) -> None:
    """oneDNN frees scratch memory by its pointer, small and large: in matrix products, GELU and convolutions."""
    inputs, weights = torch.randn(rows, 300), torch.randn(700, 300)
    for dtype, tolerance in ((torch.float32, 1e-3), (torch.bfloat16, 1.0)):
        given = (values.to(dtype, copy=True).requires_grad_() for values in (inputs, weights))
        out = functional.gelu(functional.linear(*given), approximate="tanh")
        out.sum().backward()
        expected = functional.gelu(inputs.double() @ weights.double().t(), approximate="tanh")
        assert float((out.detach() - expected).abs().max()) < tolerance
    assert functional.conv1d(torch.randn(2, 64, rows), torch.randn(64, 64, 3)).shape == (2, 64, rows - 2)


def test_tensors_resized_and_moved() -> None:
    """Storage that grows, is swapped and is freed in another order."""
    before = memory_use()[0]
    small, large = torch.arange(10), torch.arange(1 << 19)
    small.resize_(1 << 19)
    assert small[:10].tolist() == list(range(10))
    small.set_(large.untyped_storage(), 0, large.shape, large.stride())
    del large
    assert int(small[-1]) == (1 << 19) - 1
    del small
    assert memory_use()[0] == before


LIMITED = """
import resource, torch
from bert_large.engines.native import NativeEngine
NativeEngine()
megabyte = 1 << 20
with open("/proc/self/statm") as file:
    mapped = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (mapped + 700 * megabyte, -1))
first = torch.empty(400 * megabyte, dtype=torch.uint8)
del first
assert torch.ops.bert_large.memory() == (0, 448 * megabyte), torch.ops.bert_large.memory()
second = torch.empty(500 * megabyte, dtype=torch.uint8)  # not beside the first
assert torch.ops.bert_large.memory() == (512 * megabyte, 0), torch.ops.bert_large.memory()
try:
    torch.empty(600 * megabyte, dtype=torch.uint8)
except RuntimeError as error:
    print(error)
third = torch.empty(2 * megabyte, dtype=torch.uint8).fill_(3)
assert int(third.sum(dtype=torch.int64)) == 6 * megabyte
"""


def test_kept_blocks_are_freed_on_shortage() -> None:
    """For a tensor of another size. One that does not fit even then is an error, which leaves the allocator usable."""
    done = subprocess.run(
        [sys.executable, "-c", LIMITED],
        env=process_environment(), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "cannot allocate 671088640 bytes of memory" in done.stdout
