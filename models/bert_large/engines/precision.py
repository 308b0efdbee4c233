"""What each precision sets in PyTorch, and whether this CPU computes in it with instructions of its own."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass

import torch

from bert_large.cpu import read_cpu_flags
from bert_large.log import LOGGER
from bert_large.matmul import bf32_rounds_factors

PRODUCT_FLAGS = {"bf16": ("amx_bf16", "avx512_bf16"), "fp16": ("amx_fp16", "avx512_fp16")}
"""CPU flags of the instructions for matrix products of a type."""

_SLOW_RATIO = 10.0
"""Time of an fp16 product over fp32's from which it is reported: with instructions for fp16 it is below 2."""


@dataclass(frozen=True)
class Precision:
    """How forward and backward passes compute; weights and optimizer state are fp32 in every precision."""

    name: str
    autocast_dtype: torch.dtype | None = None
    matmul_precision: str = "highest"
    """PyTorch's setting for float32 products: "medium" asks for factors rounded to bf16, as bf32 needs."""

    @property
    def activation_dtype(self) -> torch.dtype:
        """Type of the results of matrix products."""
        return self.autocast_dtype or torch.float32

    @property
    def scales_loss(self) -> bool:
        """Whether gradients can leave the range of the type they are computed in."""
        return self.autocast_dtype == torch.float16

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """Return the context for forward passes."""
        if self.autocast_dtype is None:
            return contextlib.nullcontext()
        return torch.autocast("cpu", dtype=self.autocast_dtype)

    def describe(self, cpu_flags: frozenset[str]) -> tuple[str, str | None]:
        """Return one line on how this precision computes on this CPU, which has these flags, and a warning or None."""
        if self.matmul_precision == "medium":
            return _describe_bf32()
        if self.autocast_dtype is None:
            return f"precision {self.name}: fp32 throughout", None
        products = "bf16" if self.autocast_dtype == torch.bfloat16 else "fp16"
        flags = PRODUCT_FLAGS[products]
        found = [flag for flag in flags if flag in cpu_flags]
        how = f"with {', '.join(found)}" if found else "(emulated)"
        weights = "fp32 master weights" + (", dynamic loss scaling" if self.scales_loss else "")
        warning = _warn_of_slow_fp16() if found and products == "fp16" else None if found else (
            f"this CPU has none of the {products} instructions ({', '.join(flags)}): {self.name} is emulated and "
            "can be many times slower than fp32; use PRECISION=fp32 here"
        )  # fmt: skip
        return f"precision {self.name}: {products} matrix products {how}, {weights}", warning


# avx-fp32 differs from fp32 only in the environment (DNNL_MAX_CPU_ISA unset), which the launch scripts set.
_PRECISIONS = {
    "fp32": Precision("fp32"),
    "avx-fp32": Precision("avx-fp32"),
    "bf16": Precision("bf16", autocast_dtype=torch.bfloat16),
    "bf32": Precision("bf32", matmul_precision="medium"),
    "fp16": Precision("fp16", autocast_dtype=torch.float16),
}


def get_precision(name: str) -> Precision:
    """Return the precision of a name in `config.training.PRECISIONS`."""
    return _PRECISIONS[name]


def apply_precision(name: str) -> Precision:
    """Set PyTorch's global settings for a precision, log how it computes on this CPU, and return it."""
    precision = get_precision(name)
    description, warning = precision.describe(read_cpu_flags())
    LOGGER.info(description)
    if warning is not None:
        LOGGER.warning("warning: %s", warning)
    torch.set_float32_matmul_precision(precision.matmul_precision)
    return precision


def _warn_of_slow_fp16() -> str | None:
    """Return a warning if fp16 products are slow in spite of the CPU's instructions.

    oneDNN 3.12.3, in PyTorch 2.14, computes them in plain loops, a thousand times slower than before (PyTorch's issue
    193951). Whether this PyTorch does is found by computing one product.
    """
    ratio = half_product_ratio()
    if ratio < _SLOW_RATIO:
        return None
    return (
        f"fp16 matrix products take {ratio:.0f} times as long as fp32's with PyTorch {torch.__version__}, although "
        "this CPU has instructions for them; use PRECISION=bf16 or fp32, or PyTorch 2.13"
    )


def half_product_ratio() -> float:
    """Return the time of a product of fp16 matrices over that of fp32 matrices: the best of three of 256 rows each."""
    seconds = {}
    for dtype in (torch.float16, torch.float32):
        factor = torch.ones(256, 256, dtype=dtype)
        times = []
        for _ in range(3):
            begun = time.perf_counter()
            torch.mm(factor, factor)
            times.append(time.perf_counter() - begun)
        seconds[dtype] = min(times)
    return seconds[torch.float16] / seconds[torch.float32]


def _describe_bf32() -> tuple[str, str | None]:
    if bf32_rounds_factors():
        return "precision bf32: fp32 tensors, bf16 factors of matrix products, fp32 master weights", None
    return "precision bf32: fp32 throughout on this CPU", (
        "PyTorch does not round the factors of fp32 matrix products to bf16 on this CPU, which takes amx_bf16: bf32 "
        "computes the same as fp32; use PRECISION=fp32, or bf16 where the CPU has avx512_bf16"
    )
