"""What a precision means for PyTorch, and whether this CPU has the instructions for it."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

import torch

from bert_large.observe.console import LOGGER

BF16_FLAGS = ("amx_bf16", "avx512_bf16")


def read_cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Return the instruction-set flags of the first CPU, empty where the system does not say."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return frozenset()
    return next((frozenset(line.split(":", 1)[1].split()) for line in lines if line.startswith("flags")), frozenset())


@dataclass(frozen=True)
class Precision:
    """How forward and backward passes compute; weights and optimizer state are fp32 in every precision."""

    name: str
    autocast_dtype: torch.dtype | None = None
    matmul_precision: str = "highest"

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """Return the context that forward passes run in."""
        if self.autocast_dtype is None:
            return contextlib.nullcontext()
        return torch.autocast("cpu", dtype=self.autocast_dtype)

    def describe(self, cpu_flags: frozenset[str]) -> tuple[str, str | None]:
        """Return one line on how this precision computes on a CPU with these flags, and a warning if it is slow."""
        if self.name in ("fp32", "avx-fp32"):
            return f"precision {self.name}: fp32 throughout", None
        found = [flag for flag in BF16_FLAGS if flag in cpu_flags]
        if found:
            return f"precision {self.name}: bf16 matrix products with {', '.join(found)}, fp32 master weights", None
        return f"precision {self.name}: bf16 matrix products, emulated, fp32 master weights", (
            f"this CPU has none of the bf16 instructions ({', '.join(BF16_FLAGS)}): {self.name} is emulated and "
            "can be many times slower than fp32; use PRECISION=fp32 here"
        )


# bf32 keeps fp32 tensors and lets oneDNN round the operands of matrix products to bf16.
# avx-fp32 differs from fp32 only in the environment (DNNL_MAX_CPU_ISA unset), which the launch scripts set.
_PRECISIONS = {
    "fp32": Precision("fp32"),
    "avx-fp32": Precision("avx-fp32"),
    "bf16": Precision("bf16", autocast_dtype=torch.bfloat16),
    "bf32": Precision("bf32", matmul_precision="medium"),
}


def apply_precision(name: str) -> Precision:
    """Set PyTorch up for a precision that `config.PRECISIONS` names, say what it means on this CPU, and return it."""
    precision = _PRECISIONS[name]
    description, warning = precision.describe(read_cpu_flags())
    LOGGER.info(description)
    if warning is not None:
        LOGGER.warning("warning: %s", warning)
    torch.set_float32_matmul_precision(precision.matmul_precision)
    return precision
