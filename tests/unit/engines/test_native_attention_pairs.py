"""Attention with products of bfloat16 pairs on any CPU, on emulated tiles and vectors, against products of floats."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from bert_large.cpp_library import find_compiler
from bert_large.engines.native import build

EMULATION = Path(__file__).resolve().parents[2] / "support" / "amx_emulation"


@pytest.mark.slow
@pytest.mark.parametrize("tiles", [0, 1])
def test_attention_of_pairs(tiles: int, tmp_path: Path) -> None:
    """Heads of odd sizes, empty and single-token sequences, several query blocks, with and without dropout.

    Probabilities and their gradients are rounded to bfloat16 as factors, each with an error of up to 2^-9.
    """
    compiler = find_compiler()
    assert compiler is not None
    sources = [EMULATION / "compare.cpp", *(build.SOURCES / name for name in ("attention.cpp", "attention_pairs.cpp"))]
    program = tmp_path / "compare"
    options = ["-std=c++20", "-O3", "-fopenmp", "-Wno-psabi", "-mavx2", "-mfma", f"-I{EMULATION}",
               f"-I{build.SOURCES}", f"-DEMULATE_TILES={tiles}"]  # fmt: skip
    subprocess.run([*compiler, *options, *map(str, sources), "-o", str(program)], check=True)
    output = subprocess.run([program], capture_output=True, text=True, check=True).stdout
    assert all(float(error) < 0.02 for error in output.split()), output
