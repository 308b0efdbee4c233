"""A backend of `torch.distributed` over oneCCL, for CPU tensors: `BACKEND=ccl`.

Intel's own bindings ended with PyTorch 2.7. This backend needs the extra `ccl`, which has oneCCL's libraries, and a C++
compiler the first time.
"""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed

from bert_large.cpp_library import CppLibrary, build_folders
from bert_large.distributed.ccl.libraries import (
    OneCcl,
    describe_transport,
    find_oneccl,
    remove_stale_segments,
    transport_variables,
)
from bert_large.errors import UserError

_ADDRESS_KEY = "oneccl address"
_ADVICE = "set BACKEND=gloo"


def bindings(oneccl: OneCcl) -> CppLibrary:
    """Return the library with the backend, which may not be built yet."""
    folder = Path(__file__).parent
    return CppLibrary(
        name="bert_large-oneccl",
        title="the oneCCL bindings",
        sources=folder / "csrc",
        options=("-O2", f"-isystem{oneccl.include}", f'-DBERT_LARGE_ONECCL="{oneccl.version}"'),
        links=(str(oneccl.library), f"-Wl,-rpath,{oneccl.library.parent}"),
        folders=build_folders(folder / "built"),
        alternative=_ADVICE,
    )


def load(local_ranks: int, *, one_host: bool) -> str:
    """Load the backend, built if necessary, and register it with `torch.distributed` as `ccl`; return a description.

    `local_ranks` is the number of ranks on this host, `one_host` whether these are all. oneCCL's environment variables
    are set, unless the user has set them. Raises `LibraryBuildError` if the backend cannot be built or loaded.
    """
    oneccl = find_oneccl()
    remove_stale_segments()
    os.environ |= transport_variables(oneccl, os.environ, local_ranks=local_ranks, one_host=one_host)
    bindings(oneccl).load()
    if "CCL" not in distributed.Backend._plugins:
        distributed.Backend.register_backend("ccl", _create_group, devices=["cpu"])
    return describe_transport(oneccl, os.environ)


def _create_group(store: distributed.Store, rank: int, size: int, timeout: timedelta) -> distributed.ProcessGroup:
    operators = torch.ops.bert_large_ccl
    milliseconds = int(timeout.total_seconds() * 1000)
    try:
        if rank == 0:
            store.set(_ADDRESS_KEY, bytes(operators.serve_store().tolist()).hex())
        address = torch.frombuffer(bytearray.fromhex(store.get(_ADDRESS_KEY).decode()), dtype=torch.uint8)
        group = operators.create_group(address, rank, size, milliseconds)
    except RuntimeError as error:
        raise UserError(f"oneCCL cannot connect the ranks: {str(error).splitlines()[0]}; {_ADVICE}") from error
    return distributed.ProcessGroup.unbox(group)
