"""The library that carries gradients between ranks. Imports PyTorch only where it must."""

from __future__ import annotations

import importlib
import importlib.util
import os

from bert_large.errors import InputError, UserError

BACKENDS = ("ccl", "mpi", "gloo")
_CCL_BINDINGS = "oneccl_bindings_for_pytorch"
_MPI_LAUNCHERS_VARIABLES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_RANK")


def expected_backend(asked: str | None) -> str:
    """Return the backend that ranks started by torchrun will choose, without loading anything.

    Raises:
        InputError: there is no such backend.
    """
    if not asked:
        return "ccl" if _is_installed(_CCL_BINDINGS) else "gloo"
    if asked not in BACKENDS:
        raise InputError(f"BACKEND is {asked!r}, expected one of {', '.join(BACKENDS)}")
    return asked


def choose_backend(asked: str | None = None) -> tuple[str, str]:
    """Return the backend that is asked for, or the best there is, and why.

    `ccl` where oneCCL's bindings are installed; `mpi` where PyTorch has it and an MPI launcher started this process,
    since without one every process is alone; else `gloo`.

    Raises:
        InputError: what is asked for is not there.
        UserError: oneCCL's bindings are installed but do not load.
    """
    from torch import distributed

    expected_backend(asked)
    ccl_is_installed = _is_installed(_CCL_BINDINGS)
    if asked == "ccl" and not ccl_is_installed:
        raise InputError(
            f"BACKEND is ccl, but oneCCL's bindings ({_CCL_BINDINGS}) are not installed; "
            "install those of this PyTorch's version, or use gloo"
        )
    if asked == "mpi" and not distributed.is_mpi_available():
        raise InputError("BACKEND is mpi, but this PyTorch was built without MPI, as its wheels are; use gloo or ccl")
    if asked == "ccl" or (not asked and ccl_is_installed):
        _load_ccl()
        return "ccl", "asked for" if asked else "oneCCL's bindings are installed"
    if asked:
        return asked, "asked for"
    if distributed.is_mpi_available() and any(name in os.environ for name in _MPI_LAUNCHERS_VARIABLES):
        return "mpi", "oneCCL's bindings are not installed, PyTorch has MPI and an MPI launcher started the ranks"
    return "gloo", "oneCCL's bindings are not installed"


def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _load_ccl() -> None:
    try:
        importlib.import_module(_CCL_BINDINGS)  # registers the backend
    except (ImportError, OSError) as error:
        raise UserError(
            f"oneCCL's bindings ({_CCL_BINDINGS}) are installed but do not load: {error}; "
            "install those of this PyTorch's version, or set BACKEND=gloo"
        ) from None
