"""The communication library of the ranks. PyTorch is imported only where it is needed."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable, Sequence

from bert_large.distributed.ccl.libraries import OneCclMissingError, find_oneccl, has_oneccl, worker_variables
from bert_large.errors import InputError, UserError
from bert_large.extras import missing_extra

BACKENDS = ("ccl", "mpi", "gloo")
_INTELS_BINDINGS = "oneccl_bindings_for_pytorch"
_MPI_LAUNCHERS_VARIABLES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE")
_TRIAL_BYTES = 25 << 20  # the default size of a bucket of gradients
_TRIAL_ROUNDS = 5
_CLEARLY_FASTER = 0.9
"""gloo is chosen if it needs less than this part of oneCCL's time, so that equal ones do not take turns."""


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
    if asked == "ccl" and not _has_intels_bindings():
        try:
            find_oneccl()
        except OneCclMissingError as error:
            raise missing_extra("BACKEND=ccl", "ccl", error) from None


def can_use_ccl(asked: str | None) -> bool:
    """Return whether ranks use oneCCL, or try it, without loading it."""
    return asked == "ccl" or (not asked and (has_oneccl() or _has_intels_bindings()))


def sets_cores_aside(asked: str | None) -> bool:
    """Return whether ranks are certain to use oneCCL, so that its workers get cores of their own."""
    return asked == "ccl" or (not asked and _has_intels_bindings() and not has_oneccl())


def choose_backends(asked: str | None = None) -> tuple[tuple[str, ...], str]:
    """Return the backend that is asked for, or those that are tried, and the reason for the choice.

    Without a choice of the user, these are `gloo` and `ccl` if the extra `ccl` is installed, which `start_fastest`
    compares; `ccl` if only Intel's bindings are; then `mpi` if PyTorch supports it and mpirun started this process,
    because MPI regards any other process as the only one; else `gloo`. Raises `InputError` if the backend that is asked
    for is not available.
    """
    from torch import distributed

    by_torchrun = distributed.is_torchelastic_launched()
    check_backend(asked, by_torchrun=by_torchrun)
    _check_ccl(asked)
    if asked == "mpi" and not distributed.is_mpi_available():
        raise InputError(
            "BACKEND is mpi, but this PyTorch was built without MPI, like its published wheels; use gloo or ccl"
        )
    if asked:
        return (asked,), "asked for"
    if has_oneccl():
        return ("gloo", "ccl"), "the faster one, measured when the ranks start"
    if _has_intels_bindings():
        return ("ccl",), "oneCCL's bindings are installed"
    by_mpirun = not by_torchrun and any(name in os.environ for name in _MPI_LAUNCHERS_VARIABLES)
    if by_mpirun and distributed.is_mpi_available():
        return ("mpi",), "oneCCL is not installed, PyTorch has MPI and mpirun started the ranks"
    return ("gloo",), "oneCCL is not installed"


def load_ccl(local_rank: int, local_ranks: int, *, one_host: bool) -> str:
    """Register the backend `ccl` with PyTorch, and return a description of it.

    That is the one of this package, or Intel's bindings where only those are installed. Raises `UserError` if it cannot
    be loaded.
    """
    cpus = sorted(os.sched_getaffinity(0))
    os.environ |= worker_variables(os.environ, local_rank=local_rank, local_ranks=local_ranks, cpus=cpus)
    if has_oneccl():
        from bert_large.distributed.ccl import plugin

        return plugin.load(local_ranks, one_host=one_host)
    try:
        importlib.import_module(_INTELS_BINDINGS)  # registers the backend
    except (ImportError, OSError) as error:
        raise UserError(
            f"oneCCL's bindings ({_INTELS_BINDINGS}) are installed but cannot be loaded: {error}; "
            "install the ones for this version of PyTorch, or set BACKEND=gloo"
        ) from None
    return "Intel's bindings of oneCCL"


def start_fastest(candidates: Sequence[str], start: Callable[[str], None]) -> tuple[str, str]:
    """Start the backend that sums fastest; return its name, and the reason with the times.

    `start` initializes the process group with a backend. The last candidate is the favorite, which is kept unless
    another one is clearly faster.
    """
    from torch import distributed

    seconds: dict[str, float] = {}
    for name in candidates:
        start(name)
        seconds[name] = _time_sum()
        if name != candidates[-1]:
            distributed.destroy_process_group()
    favorite = candidates[-1]
    fastest = min(seconds, key=lambda name: seconds[name])
    if seconds[fastest] >= _CLEARLY_FASTER * seconds[favorite]:
        fastest = favorite
    else:
        distributed.destroy_process_group()
        start(fastest)
    times = ", ".join(f"{name} {1000 * value:.1f} ms" for name, value in seconds.items())
    return fastest, f"a sum of {_TRIAL_BYTES >> 20} MiB took {times}"


def _time_sum() -> float:
    """Return the median time of a sum in seconds: the mean over ranks, so that all compare the same numbers."""
    import statistics
    import time

    import torch
    from torch import distributed

    values = torch.zeros(_TRIAL_BYTES // 4)
    times = []
    for _ in range(1 + _TRIAL_ROUNDS):
        distributed.barrier()
        begun = time.perf_counter()
        distributed.all_reduce(values)
        times.append(time.perf_counter() - begun)
    median = torch.tensor(statistics.median(times[1:]), dtype=torch.float64)
    distributed.all_reduce(median)
    return float(median) / distributed.get_world_size()


def _has_intels_bindings() -> bool:
    return importlib.util.find_spec(_INTELS_BINDINGS) is not None
