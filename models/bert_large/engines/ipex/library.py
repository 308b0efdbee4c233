"""Checks whether Intel Extension for PyTorch can be used, and imports it."""

from __future__ import annotations

import functools
import importlib
import os
import warnings
from importlib import metadata
from types import ModuleType

import torch

from bert_large.cpu import read_cpu_flags

_PACKAGE = "intel-extension-for-pytorch"
_INSTALL = (
    f"install torch==2.8.0 and {_PACKAGE}==2.8.0, its last release, into an environment of its own (as make test-ipex "
    "does), or use --engine auto"
)
_RANK_VARIABLES = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")


def find_fault() -> str | None:
    """Return why IPEX cannot be used here and how to fix that; None if it can be used.

    Only versions and CPU flags are compared, because importing an IPEX that does not fit terminates the process.
    """
    try:
        found = ipex_version()
    except metadata.PackageNotFoundError:
        return f"Intel Extension for PyTorch is not installed; {_INSTALL}"
    if found.split(".")[:2] != torch.__version__.split(".")[:2]:
        return f"Intel Extension for PyTorch {found} does not fit torch {torch.__version__}; {_INSTALL}"
    if "avx2" not in read_cpu_flags():
        return (
            "Intel Extension for PyTorch needs a CPU with avx2, which /proc/cpuinfo does not list here; use --engine "
            "eager"
        )
    return None


def ipex_version() -> str:
    """Return the version of the installed IPEX."""
    return metadata.version(_PACKAGE)


@functools.cache
def load_ipex() -> ModuleType:
    """Import IPEX. That takes seconds and changes PyTorch for the whole process, so only this engine does it."""
    # If it finds a rank in these, it prints it on standard output, where our commands print only results.
    hidden = {name: os.environ.pop(name) for name in _RANK_VARIABLES if name in os.environ}
    try:
        module = importlib.import_module("intel_extension_for_pytorch")
    finally:
        os.environ.update(hidden)
    # A false alarm: its layer_norm calls PyTorch's, which is differentiable, and tests compare the gradients.
    warnings.filterwarnings("ignore", message="aten::layer_norm: an autograd kernel was not registered")
    return module
