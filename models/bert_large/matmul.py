"""Which library computes PyTorch's float32 matrix products, and how exactly.

PyTorch passes float32 products to MKL, which uses AVX-512 on Intel's CPUs only: on an AMD EPYC with AVX-512, oneDNN is
2.1 times as fast. PyTorch passes products to oneDNN if it is allowed to round their factors to bf16, and oneDNN rounds
them on CPUs with AMX only. On other CPUs the permission changes the library, not the precision.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator

import torch

from bert_large.cpu import read_cpu_flags, read_cpu_vendor


@contextlib.contextmanager
def matmul_precision(name: str) -> Iterator[None]:
    """Set PyTorch's precision of float32 matrix products ("highest", "medium") for the block."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def bf32_rounds_factors() -> bool:
    """Return whether float32 products are computed from factors rounded to bf16 when PyTorch is asked for that.

    The setting only permits it: oneDNN has such products for AMX alone, and computes in fp32 elsewhere, even on CPUs
    with avx512_bf16. It also honors DNNL_MAX_CPU_ISA. So this computes one product, whose factors 1 + 2^-10 become 1
    in bf16; 64 rows are enough for PyTorch to pass it to oneDNN.
    """
    factor = torch.full((64, 64), 1 + 2**-10)
    with matmul_precision("medium"):
        return float(torch.mm(factor, factor)[0, 0]) == 64.0


@contextlib.contextmanager
def fastest_float32() -> Iterator[None]:
    """Compute float32 matrix products in the block by the faster library, in full precision.

    Outside of the block, and where the user has chosen another precision, PyTorch's settings stay as they are.
    """
    if _is_default() and _prefers_onednn():
        with matmul_precision("medium"):
            yield
    else:
        yield


@functools.cache
def _prefers_onednn() -> bool:
    if read_cpu_vendor() == "GenuineIntel" or "avx512f" not in read_cpu_flags():
        return False
    return torch.backends.mkldnn.is_available() and not bf32_rounds_factors()


def _is_default() -> bool:
    try:
        return torch.get_float32_matmul_precision() == "highest"
    except RuntimeError:  # set through `torch.backends.mkldnn.matmul.fp32_precision`
        return False
