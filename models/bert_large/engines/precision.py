"""What a precision means for PyTorch, and whether this CPU has the instructions for it."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import torch

from bert_large.log import LOGGER
from bert_large.observe.machine import read_cpu_flags

PRODUCT_FLAGS = {"bf16": ("amx_bf16", "avx512_bf16"), "fp16": ("amx_fp16", "avx512_fp16")}
"""CPU flags of the instructions for matrix products of a type."""


@dataclass(frozen=True)
class Precision:
    """How forward and backward passes compute; weights and optimizer state are fp32 in every precision."""

    name: str
    autocast_dtype: torch.dtype | None = None
    matmul_precision: str = "highest"
    products: str = "fp32"
    """Type that the factors of matrix products are rounded to."""

    @property
    def activation_dtype(self) -> torch.dtype:
        """Type that matrix products return."""
        return self.autocast_dtype or torch.float32

    @property
    def scales_loss(self) -> bool:
        """Whether gradients can leave the range of the type they are computed in."""
        return self.autocast_dtype == torch.float16

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """Return the context that forward passes run in."""
        if self.autocast_dtype is None:
            return contextlib.nullcontext()
        return torch.autocast("cpu", dtype=self.autocast_dtype)

    def describe(self, cpu_flags: frozenset[str]) -> tuple[str, str | None]:
        """Return one line on how this precision computes on a CPU with these flags, and a warning if it is slow."""
        if self.products == "fp32":
            return f"precision {self.name}: fp32 throughout", None
        flags = PRODUCT_FLAGS[self.products]
        found = [flag for flag in flags if flag in cpu_flags]
        how = f"with {', '.join(found)}" if found else "(emulated)"
        weights = "fp32 master weights" + (", dynamic loss scaling" if self.scales_loss else "")
        warning = None if found else (
            f"this CPU has none of the {self.products} instructions ({', '.join(flags)}): {self.name} is emulated and "
            "can be many times slower than fp32; use PRECISION=fp32 here"
        )  # fmt: skip
        return f"precision {self.name}: {self.products} matrix products {how}, {weights}", warning


# bf32 keeps fp32 tensors and lets oneDNN round the operands of matrix products to bf16.
# avx-fp32 differs from fp32 only in the environment (DNNL_MAX_CPU_ISA unset), which the launch scripts set.
_PRECISIONS = {
    "fp32": Precision("fp32"),
    "avx-fp32": Precision("avx-fp32"),
    "bf16": Precision("bf16", autocast_dtype=torch.bfloat16, products="bf16"),
    "bf32": Precision("bf32", matmul_precision="medium", products="bf16"),
    "fp16": Precision("fp16", autocast_dtype=torch.float16, products="fp16"),
}


def get_precision(name: str) -> Precision:
    """Return what a precision that `config.PRECISIONS` names means."""
    return _PRECISIONS[name]


def apply_precision(name: str) -> Precision:
    """Set PyTorch up for a precision that `config.PRECISIONS` names, say what it means on this CPU, and return it."""
    precision = get_precision(name)
    description, warning = precision.describe(read_cpu_flags())
    LOGGER.info(description)
    if warning is not None:
        LOGGER.warning("warning: %s", warning)
    torch.set_float32_matmul_precision(precision.matmul_precision)
    return precision
