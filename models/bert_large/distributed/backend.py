"""The communication library of the ranks. PyTorch is imported only where it is needed."""

from __future__ import annotations

import importlib
import importlib.util
import os

from bert_large.errors import InputError, UserError

BACKENDS = ("ccl", "mpi", "gloo")
_CCL_BINDINGS = "oneccl_bindings_for_pytorch"
_MPI_LAUNCHERS_VARIABLES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE")


def check_backend(asked: str | None, *, by_torchrun: bool) -> None:
    """Raise `InputError` for an unknown backend, or one that ranks started by torchrun cannot use here."""
    if asked and asked not in BACKENDS:
        raise InputError(f"BACKEND is {asked!r}, expected one of {', '.join(BACKENDS)}")
    if asked == "mpi" and by_torchrun:
        raise InputError(
            "BACKEND is mpi, but MPI knows only ranks that mpirun starts, not those of torchrun; use gloo or ccl"
        )
    if by_torchrun:
        _check_ccl(asked)


def _check_ccl(asked: str | None) -> None:
    if asked == "ccl" and not _is_installed(_CCL_BINDINGS):
        raise InputError(
            f"BACKEND is ccl, but oneCCL's bindings ({_CCL_BINDINGS}) are not installed; "
            "install the ones for this version of PyTorch, or use gloo"
        )


def will_use_ccl(asked: str | None) -> bool:
    """Return whether ranks will choose oneCCL, without loading it."""
    return asked == "ccl" or (not asked and _is_installed(_CCL_BINDINGS))


def choose_backend(asked: str | None = None) -> tuple[str, str]:
    """Return the backend that is asked for, or the best one available, and the reason for the choice.

    The best is `ccl` if oneCCL's bindings are installed; then `mpi` if PyTorch supports it and mpirun started this
    process, because MPI regards any other process as the only one; else `gloo`. Raises `InputError` if the backend
    that is asked for is not available, `UserError` if oneCCL's bindings are installed but cannot be loaded.
    """
    from torch import distributed

    by_torchrun = distributed.is_torchelastic_launched()
    check_backend(asked, by_torchrun=by_torchrun)
    _check_ccl(asked)
    if asked == "mpi" and not distributed.is_mpi_available():
        raise InputError(
            "BACKEND is mpi, but this PyTorch was built without MPI, like its published wheels; use gloo or ccl"
        )
    if will_use_ccl(asked):
        _load_ccl()
        return "ccl", "asked for" if asked else "oneCCL's bindings are installed"
    if asked:
        return asked, "asked for"
    by_mpirun = not by_torchrun and any(name in os.environ for name in _MPI_LAUNCHERS_VARIABLES)
    if by_mpirun and distributed.is_mpi_available():
        return "mpi", "oneCCL's bindings are not installed, PyTorch has MPI and mpirun started the ranks"
    return "gloo", "oneCCL's bindings are not installed"


def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _load_ccl() -> None:
    try:
        importlib.import_module(_CCL_BINDINGS)  # registers the backend
    except (ImportError, OSError) as error:
        raise UserError(
            f"oneCCL's bindings ({_CCL_BINDINGS}) are installed but cannot be loaded: {error}; "
            "install the ones for this version of PyTorch, or set BACKEND=gloo"
        ) from None
