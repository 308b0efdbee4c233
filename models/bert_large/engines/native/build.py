"""The C++ kernels: which instruction sets they are built for, and loading those of this CPU."""

from __future__ import annotations

import functools
from collections.abc import Collection
from pathlib import Path

from bert_large.cpp_library import CppLibrary, LibraryBuildError, build_folders
from bert_large.cpu import read_cpu_flags

SOURCES = Path(__file__).parent / "csrc"

_AVX2 = ("avx2", "fma")
_AVX512 = (*_AVX2, "avx512f", "avx512bw", "avx512vl", "avx512dq")
# Best first: the CPU flags that an instruction set needs, as /proc/cpuinfo spells them. AMX is not among them: oneDNN
# generates those instructions at run time.
INSTRUCTION_SETS = {"avx512_bf16": (*_AVX512, "avx512_bf16"), "avx512": _AVX512, "avx2": _AVX2}
_COMPILER_OPTIONS = (
    "-O3",
    "-fopenmp",  # for compiling only: linked without it, the kernels share the OpenMP runtime that PyTorch brought
    "-ffp-contract=fast",  # fused multiply-add, which -std=c++20 turns off
    "-fno-math-errno",
)


def best_instruction_set(cpu_flags: Collection[str]) -> str:
    """Return the best instruction set of a CPU with these flags."""
    for name, needed in INSTRUCTION_SETS.items():
        if set(needed) <= set(cpu_flags):
            return name
    raise LibraryBuildError(
        f"engine native needs a CPU with {' and '.join(_AVX2)}, which /proc/cpuinfo does not list here; use --engine "
        "eager"
    )


def kernels(instruction_set: str) -> CppLibrary:
    """Return the kernels for an instruction set, which may not be built yet."""
    flags = [f"-m{flag.replace('_', '')}" for flag in INSTRUCTION_SETS[instruction_set]]
    wide = ["-mprefer-vector-width=512"] if instruction_set.startswith("avx512") else []
    return CppLibrary(
        name=f"bert_large-{instruction_set}",
        title="the native kernels",
        sources=SOURCES,
        options=(*_COMPILER_OPTIONS, *flags, *wide),
        folders=build_folders(Path(__file__).parent / "built"),
        alternative="use --engine eager",
    )


@functools.cache
def load_kernels() -> str:
    """Load the kernels for this CPU, built if necessary, as `torch.ops.bert_large`; return their instruction set."""
    instruction_set = best_instruction_set(read_cpu_flags())
    kernels(instruction_set).load()
    return instruction_set
