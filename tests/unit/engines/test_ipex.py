"""Whether IPEX fits the installed PyTorch and the CPU, and the error if not."""

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
        (None, "2.8.0", {"avx2"}, "torch==2.8.0.*intel-extension-for-pytorch==2.8.0"),
        ("2.8.0", "2.13.0+cpu", {"avx2"}, r"2\.8\.0.*torch 2\.13\.0\+cpu"),
        ("2.7.0+cpu", "2.8.0", {"avx2"}, r"2\.7\.0\+cpu.*torch 2\.8\.0"),
        ("2.8.0", "2.8.0", {"avx"}, "avx2.*--engine eager"),
    ],
)  # fmt: skip
def test_ipex_that_does_not_fit(
    version: str | None, torch_version: str, flags: set[str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, version, torch_version, flags)
    assert available_engines() == ("eager", "native")
    with pytest.raises(InputError, match=f"ipex.*{expected}"):
        resolve_engine("ipex", "fp32")


@pytest.mark.parametrize(("version", "torch_version"), [("2.8.0", "2.8.0+cpu"), ("2.7.0", "2.7.1+cpu")])
def test_ipex_that_fits(version: str, torch_version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's patch level does not matter."""
    install(monkeypatch, version, torch_version, {"avx2"})
    assert find_fault() is None
    assert available_engines() == ("eager", "native", "ipex")


def install(monkeypatch: pytest.MonkeyPatch, version: str | None, torch_version: str, flags: set[str]) -> None:
    """Make these appear to be the installed versions and the CPU's flags."""

    def find(package: str) -> str:
        assert package == "intel-extension-for-pytorch"
        if version is None:
            raise metadata.PackageNotFoundError
        return version

    monkeypatch.setattr(metadata, "version", find)
    monkeypatch.setattr(torch, "__version__", torch_version)
    monkeypatch.setattr(library, "read_cpu_flags", lambda: frozenset(flags))


def test_importing_ipex_prints_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would print a rank that it finds in the environment; the variables are restored afterwards."""
    monkeypatch.setenv("RANK", "3")
    seen: list[str | None] = []
    monkeypatch.setattr(library.importlib, "import_module", lambda name: seen.append(os.environ.get("RANK")))
    load_ipex.__wrapped__()
    assert seen == [None] and os.environ["RANK"] == "3"


@pytest.mark.parametrize("name", ["ipex", "native"])
def test_fp16_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"{name}.*fp16"):
        resolve_engine(name, "fp16")
