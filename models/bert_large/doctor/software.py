"""Checks of the software: versions, the native kernels, OpenMP runtimes and the allocator of this process."""

from __future__ import annotations

import importlib
import os
import platform
import re
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from bert_large.doctor.finding import OK, PROBLEM, WARNING, Finding
from bert_large.engines.ipex.library import find_fault, ipex_version
from bert_large.engines.native.build import (
    INSTRUCTION_SETS,
    KernelBuildError,
    best_instruction_set,
    compiler_name,
    find_compiler,
    find_kernels,
    kernel_folders,
)
from bert_large.observe.allocator import describe_allocator

MODULES = ("torch", "numpy", "h5py", "tokenizers", "sentencex")
"""What the commands import that may bring threads of its own."""
_SHOWN = ("torch", "numpy", "transformers")
_OPENMP = re.compile(r"lib(gomp|iomp5|omp)[-.][^/]*$")


def check_kernels(cpu_flags: frozenset[str]) -> Finding:
    """Tell whether the native engine's kernels for this CPU are built, or can be."""
    topic = "native kernels"
    try:
        name = best_instruction_set(cpu_flags)
    except KernelBuildError as error:
        return Finding(PROBLEM, topic, f"none for this CPU, of {', '.join(INSTRUCTION_SETS)}", str(error))
    library = find_kernels(name)
    if library is not None:
        return Finding(OK, topic, f"{name}: {library}")
    compiler = compiler_name()
    if find_compiler() is None:
        return Finding(
            PROBLEM, topic, f"those for {name} are not built, and there is no {compiler} to build them",
            "install a C++ compiler (Debian, Ubuntu: apt-get install g++), or train with ENGINE=eager, far slower",
        )  # fmt: skip
    if not any(_can_be_written(folder) for folder in kernel_folders()):
        folders = ", ".join(map(str, kernel_folders()))
        return Finding(
            PROBLEM, topic, f"those for {name} are not built, and {folders} cannot be written",
            "name a folder that can be in BERT_LARGE_KERNELS_DIR",
        )  # fmt: skip
    return Finding(
        WARNING, topic, f"those for {name} are not built yet; the first run builds them, for about a minute",
        "bert-large kernels builds them now",
    )  # fmt: skip


def _can_be_written(folder: Path) -> bool:
    try:
        existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    except OSError:  # inside a folder that must not be entered
        return False
    return existing.is_dir() and os.access(existing, os.W_OK)


def import_modules() -> None:
    """Import what training and preparation use, so that the libraries of all of them are loaded."""
    for name in MODULES:
        importlib.import_module(name)


def find_openmp_runtimes(maps: str) -> list[str]:
    """Return the paths of the OpenMP runtimes in the text of /proc/self/maps: GNU's, Intel's, LLVM's."""
    paths = {line.split(maxsplit=5)[5].strip() for line in maps.splitlines() if "/" in line}
    return sorted(path for path in paths if _OPENMP.search(path))


def check_openmp(runtimes: Sequence[str]) -> Finding:
    """Tell whether a process has more than one OpenMP runtime, each with its own threads on the same cores."""
    topic = "OpenMP"
    if len(runtimes) <= 1:
        return Finding(OK, topic, f"one runtime: {runtimes[0]}" if runtimes else "no runtime is loaded")
    return Finding(
        WARNING, topic, f"{len(runtimes)} runtimes in one process, each with threads of its own: {', '.join(runtimes)}",
        "unset LD_PRELOAD if it names one; else reinstall the package whose folder the second lies in, or leave it out",
    )  # fmt: skip


def check_allocator(description: str) -> Finding:
    """Tell which allocator serves this process (`describe_allocator`)."""
    note = "; the native engine keeps its large blocks itself, and the quickstart scripts load tcmalloc where it is"
    return Finding(OK, "allocator", description.removeprefix("memory allocator: ") + note)


def this_allocator() -> Finding:
    """Tell which allocator serves this process."""
    return check_allocator(describe_allocator())


def check_requirements(requirements: Sequence[str]) -> Finding:
    """Tell whether what the package needs is installed, in a version that it was made for; optional parts left out."""
    topic = "packages"
    amiss, wrong = [], []
    for requirement in map(Requirement, requirements):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        found = _version(requirement.name)
        if found is None or not requirement.specifier.contains(found, prereleases=True):
            amiss.append(f"{requirement.name} {found or 'is not installed'}, expected {requirement.specifier}")
            wrong.append(f"'{requirement.name}{requirement.specifier}'")
    if amiss:
        return Finding(PROBLEM, topic, "; ".join(amiss), f"pip install {' '.join(wrong)}")
    shown = [f"{name} {_version(name)}" for name in _SHOWN if _version(name)]
    return Finding(OK, topic, ", ".join([f"Python {platform.python_version()}", *shown, "and all others as needed"]))


def own_requirements() -> list[str]:
    """Return what the installed package asks for; nothing where it runs from its sources alone."""
    try:
        return metadata.requires("bert-large") or []
    except metadata.PackageNotFoundError:
        return []


def check_ipex() -> Finding:
    """Tell whether IPEX, if it is installed, fits PyTorch."""
    topic = "IPEX"
    fault = find_fault()
    if fault is None:
        return Finding(OK, topic, f"{ipex_version()} fits; the native engine is faster")
    if _version("intel-extension-for-pytorch") is None:
        return Finding(OK, topic, "not installed: only ENGINE=ipex needs it, and the native engine is faster")
    return Finding(WARNING, topic, fault, "leave ENGINE as it is, auto or native, or install what fits")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
