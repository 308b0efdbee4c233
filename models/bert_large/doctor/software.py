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

from bert_large.cpp_library import LibraryBuildError, compiler_name, find_compiler
from bert_large.doctor.finding import OK, PROBLEM, WARNING, Finding
from bert_large.engines.ipex.library import find_fault, ipex_version
from bert_large.engines.native.build import INSTRUCTION_SETS, best_instruction_set, kernels
from bert_large.observe.machine import describe_allocator, package_version

_MODULES = ("torch", "numpy", "h5py", "tokenizers", "sentencex")
"""Modules of all commands that may load libraries with their own threads."""
_SHOWN = ("torch", "numpy", "transformers")
_OPENMP = re.compile(r"lib(gomp|iomp5|omp)[-.][^/]*$")


def check_kernels(cpu_flags: frozenset[str]) -> Finding:
    """Check that the native engine's kernels for this CPU are built, or can be built."""
    topic = "native kernels"
    try:
        name = best_instruction_set(cpu_flags)
    except LibraryBuildError as error:
        return Finding(PROBLEM, topic, f"none of {', '.join(INSTRUCTION_SETS)} runs on this CPU", str(error))
    library = kernels(name).find()
    if library is not None:
        return Finding(OK, topic, f"{name}: {library}")
    if find_compiler() is None:
        return Finding(
            PROBLEM, topic, f"those for {name} are not built, and the compiler {compiler_name()} is not installed",
            "install a C++ compiler (Debian, Ubuntu: apt-get install g++), or train with ENGINE=eager, much slower",
        )  # fmt: skip
    if not any(map(_can_be_written, kernels(name).folders)):
        folders = ", ".join(map(str, kernels(name).folders))
        found = f"those for {name} are not built, and none of the folders {folders} can be written to"
        return Finding(PROBLEM, topic, found, "set BERT_LARGE_KERNELS_DIR to a folder that can be written to")
    found = f"those for {name} are not built yet; the first run builds them in about a minute"
    return Finding(WARNING, topic, found, "bert-large kernels builds them now")


def _can_be_written(folder: Path) -> bool:
    try:
        existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    except OSError:  # inside a folder that this user cannot enter
        return False
    return existing.is_dir() and os.access(existing, os.W_OK)


def import_modules() -> None:
    """Import the modules that training and preparation use, so that all of their libraries are loaded."""
    for name in _MODULES:
        importlib.import_module(name)


def find_openmp_runtimes(maps: str) -> list[str]:
    """Return the paths of the OpenMP runtimes of GNU, Intel and LLVM in the text of /proc/self/maps."""
    paths = {line.split(maxsplit=5)[5].strip() for line in maps.splitlines() if "/" in line}
    return sorted(path for path in paths if _OPENMP.search(path))


def check_openmp(runtimes: Sequence[str]) -> Finding:
    """Check that a process has a single OpenMP runtime: each has its own threads on the same cores."""
    if len(runtimes) <= 1:
        return Finding(OK, "OpenMP", f"one runtime: {runtimes[0]}" if runtimes else "no runtime is loaded")
    found = f"{len(runtimes)} runtimes in one process, each with its own threads: {', '.join(runtimes)}"
    remedy = "unset LD_PRELOAD if it names one of them; otherwise reinstall or remove the package with the second"
    return Finding(WARNING, "OpenMP", found, remedy)


def check_allocator() -> Finding:
    """Return the memory allocator of this process."""
    note = "the native engine reuses its large blocks itself; the quickstart scripts load tcmalloc if it is installed"
    return Finding(OK, "allocator", f"{describe_allocator().removeprefix('memory allocator: ')}; {note}")


def check_requirements(requirements: Sequence[str]) -> Finding:
    """Check that the packages this package requires, without its extras, are installed in a supported version."""
    topic = "packages"
    problems, commands = [], []
    for requirement in map(Requirement, requirements):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        found = package_version(requirement.name)
        if found is None or not requirement.specifier.contains(found, prereleases=True):
            problems.append(f"{requirement.name} {found or 'is not installed'}, expected {requirement.specifier}")
            commands.append(f"'{requirement.name}{requirement.specifier}'")
    if problems:
        return Finding(PROBLEM, topic, "; ".join(problems), f"pip install {' '.join(commands)}")
    shown = [f"{name} {version}" for name in _SHOWN if (version := package_version(name))]
    return Finding(OK, topic, ", ".join([f"Python {platform.python_version()}", *shown, "and all others as required"]))


def own_requirements() -> list[str]:
    """Return the requirements of the installed package, empty if it runs from its sources without installation."""
    try:
        return metadata.requires("bert-large") or []
    except metadata.PackageNotFoundError:
        return []


def check_ipex() -> Finding:
    """Check that IPEX, if it is installed, fits PyTorch."""
    topic = "IPEX"
    fault = find_fault()
    if fault is None:
        return Finding(OK, topic, f"{ipex_version()} fits; the native engine is faster")
    if package_version("intel-extension-for-pytorch") is None:
        return Finding(OK, topic, "not installed: only ENGINE=ipex needs it, and the native engine is faster")
    return Finding(WARNING, topic, fault, "leave ENGINE at auto or native, or install a version that fits")
