"""The AMX attention kernels on any CPU: compiled with emulated tile products, against the vector kernels."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from bert_large.cpp_library import find_compiler
from bert_large.engines.native import build

EMULATION = Path(__file__).resolve().parents[2] / "support" / "amx_emulation"


@pytest.mark.slow
def test_amx_attention(tmp_path: Path) -> None:
    """Heads of odd sizes, empty and single-token sequences, several query blocks, with and without dropout.

    Probabilities and their gradients are rounded to bfloat16 as factors, each with an error of up to 2^-9.
    """
    compiler = find_compiler()
    assert compiler is not None
    sources = [EMULATION / "compare.cpp", *(build.SOURCES / name for name in ("attention.cpp", "attention_amx.cpp"))]
    program = tmp_path / "compare"
    options = ["-std=c++20", "-O3", "-fopenmp", "-Wno-psabi", "-mavx2", "-mfma", f"-I{EMULATION}", f"-I{build.SOURCES}"]
    subprocess.run([*compiler, *options, *map(str, sources), "-o", str(program)], check=True)
    output = subprocess.run([program], capture_output=True, text=True, check=True).stdout
    assert all(float(error) < 0.02 for error in output.split()), output
