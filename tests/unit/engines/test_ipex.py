"""Whether IPEX fits what is installed here, and what is said where it does not."""

from __future__ import annotations

import os
from importlib import metadata

import pytest
import torch
from bert_large.engines import available_engines, resolve_engine
from bert_large.engines.ipex import library
from bert_large.engines.ipex.library import find_fault, load_ipex
from bert_large.errors import InputError


@pytest.mark.parametrize(
    ("version", "torch_version", "flags", "expected"),
    [
        (None, "2.8.0", {"avx2"}, "not installed; install torch==2.8.0 and intel-extension-for-pytorch==2.8.0"),
        ("2.8.0", "2.13.0+cpu", {"avx2"}, r"2\.8\.0 does not fit torch 2\.13\.0\+cpu; install"),
        ("2.7.0+cpu", "2.8.0", {"avx2"}, r"2\.7\.0\+cpu does not fit torch 2\.8\.0; install"),
        ("2.8.0", "2.8.0", {"avx"}, "needs a CPU with avx2.*use --engine eager"),
    ],
)  # fmt: skip
def test_what_does_not_fit(
    version: str | None, torch_version: str, flags: set[str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, version, torch_version, flags)
    assert available_engines() == ("eager", "native")
    with pytest.raises(InputError, match=f"^--engine is 'ipex': Intel Extension for PyTorch .*{expected}"):
        resolve_engine("ipex", "fp32")


@pytest.mark.parametrize(("version", "torch_version"), [("2.8.0", "2.8.0+cpu"), ("2.7.0", "2.7.1+cpu")])
def test_what_fits(version: str, torch_version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A patch level of PyTorch makes no difference to IPEX."""
    install(monkeypatch, version, torch_version, {"avx2"})
    assert find_fault() is None
    assert available_engines() == ("eager", "native", "ipex")


def install(monkeypatch: pytest.MonkeyPatch, version: str | None, torch_version: str, flags: set[str]) -> None:
    """Have the package find these instead of what is there."""

    def find(package: str) -> str:
        assert package == "intel-extension-for-pytorch"
        if version is None:
            raise metadata.PackageNotFoundError
        return version

    monkeypatch.setattr(metadata, "version", find)
    monkeypatch.setattr(torch, "__version__", torch_version)
    monkeypatch.setattr(library, "read_cpu_flags", lambda: frozenset(flags))


def test_it_is_loaded_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """On standard output, where it would print the rank; the variables that tell it are there again afterwards."""
    monkeypatch.setenv("RANK", "3")
    seen: list[str | None] = []
    monkeypatch.setattr(library.importlib, "import_module", lambda name: seen.append(os.environ.get("RANK")))
    load_ipex.__wrapped__()
    assert seen == [None] and os.environ["RANK"] == "3"


@pytest.mark.parametrize("name", ["ipex", "native"])
def test_fp16_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"--engine is '{name}', which has no kernels for --precision fp16; use"):
        resolve_engine(name, "fp16")
