"""The products of bfloat16 matrices compiled for AVX2 and AMX, whose instructions are emulated without AMX."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Sequence
from pathlib import Path

import torch
from bert_large.cpp_library import find_compiler
from bert_large.engines.native import build

_EMULATION = Path(__file__).parent / "amx_emulation"
_SOURCES = ("products.cpp", "product_tiles.cpp", "product_vectors.cpp")
_OPTIONS = ("-std=c++20", "-O2", "-ftree-vectorize", "-fopenmp", "-fPIC", "-Wno-psabi", "-mavx2", "-mfma")


def compile_products(folder: Path) -> ctypes.CDLL:
    """Compile the products for AVX2, where vectors have 8 lanes, and load them."""
    compiler = find_compiler()
    assert compiler is not None
    sources = [
        *(_EMULATION / name for name in ("products.cpp", "traps.cpp")),
        *(build.SOURCES / name for name in _SOURCES),
    ]
    objects: list[str] = []
    for source in sources:
        objects.append(str(folder / f"{len(objects)}.o"))
        subprocess.run([*compiler, *_OPTIONS, f"-I{build.SOURCES}", "-c", str(source), "-o", objects[-1]], check=True)
    library = folder / "products.so"
    # Without -fopenmp: the library shares the OpenMP runtime that PyTorch brought.
    pytorch = [f"-L{Path(torch.__file__).parent / 'lib'}", "-Wl,--no-as-needed", "-ltorch_cpu"]
    subprocess.run([*compiler, "-shared", *objects, "-o", str(library), *pytorch], check=True)
    loaded = ctypes.CDLL(str(library))
    assert loaded.prepare_tiles()
    return loaded


class CompiledProducts:
    """`torch.ops.bert_large`'s products from a library of `compile_products`."""

    def __init__(self, library: ctypes.CDLL, *, tiles: bool) -> None:
        self._library, self._tiles = library, tiles

    def pack_weights(self, weights: Sequence[torch.Tensor], panels: torch.Tensor) -> None:
        """Pack weights, one below the other."""
        first = 0
        for weight in weights:
            sizes = map(ctypes.c_int64, (first, *weight.shape))
            self._library.pack(torch.get_num_threads(), *sizes, *_pointers(weight, panels))
            first += len(weight)

    def packed_product(self, x: torch.Tensor, weight: torch.Tensor, y: torch.Tensor) -> None:
        """y = x @ weight.T"""
        self._call("product", (*y.shape, x.shape[1]), x, weight, y)

    def packed_product_gelu(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, form: str, derivative: torch.Tensor,
        activated: torch.Tensor,
    ) -> None:  # fmt: skip
        """activated = GELU(x @ weight.T + bias), and its derivative."""
        assert form == "none"
        self._call("product_gelu", (*activated.shape, x.shape[1]), x, weight, bias, derivative, activated)

    def packed_input_gradient(
        self, dy: torch.Tensor, weight: torch.Tensor, dx: torch.Tensor, add: bool = False
    ) -> None:
        """dx = dy @ weight, or += with `add`."""
        self._call("input_gradient", (*dx.shape, dy.shape[1]), dy, weight, dx, add)

    def packed_input_gradient_gelu(
        self, dy: torch.Tensor, weight: torch.Tensor, derivative: torch.Tensor, gradient: torch.Tensor,
        bias_gradient: torch.Tensor,
    ) -> None:  # fmt: skip
        """gradient = (dy @ weight) * derivative; its column sums are added to bias_gradient."""
        sizes = (*gradient.shape, dy.shape[1])
        self._call("input_gradient_gelu", sizes, dy, weight, derivative, gradient, bias_gradient)

    def weight_gradient(self, dy: torch.Tensor, x: torch.Tensor, gradient: torch.Tensor, add: bool) -> None:
        """gradient = dy.T @ x, or += with `add`."""
        self._call("weight_gradient", (*gradient.shape, len(x)), dy, x, gradient, add)

    def _call(self, name: str, sizes: Sequence[int], *arguments: torch.Tensor | bool) -> None:
        function = getattr(self._library, name)
        tensors = [argument for argument in arguments if isinstance(argument, torch.Tensor)]
        flags = [argument for argument in arguments if isinstance(argument, bool)]
        function(
            self._tiles, torch.get_num_threads(), (ctypes.c_int64 * 3)(*sizes), *_pointers(*tensors), *flags
        )  # fmt: skip


def _pointers(*tensors: torch.Tensor) -> list[ctypes.c_void_p]:
    assert all(tensor.is_contiguous() for tensor in tensors)
    return [ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors]
