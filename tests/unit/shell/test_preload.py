"""The libraries that the quickstart scripts preload: a memory allocator and an OpenMP."""

from __future__ import annotations

from pathlib import Path

import pytest

from .sandbox import Sandbox

PHASE_1 = "quickstart/run_bert_pretrain_phase1.sh"


def install(sandbox: Sandbox, *libraries: str) -> None:
    """Let the linker know of these libraries, and of no other."""
    names = ("libc.so.6", "libjemalloc.so.1", *libraries)
    listed = "\n".join(["99 libs found", *(f"\t{name} (libc6,x86-64) => /lib/{name}" for name in names)])
    sandbox.fake("ldconfig", f"print({listed!r})")


@pytest.mark.parametrize(
    ("choice", "installed", "preloaded"),
    [
        ("auto", ("libjemalloc.so.2", "libtcmalloc.so.4", "libtcmalloc_minimal.so.4"), "/lib/libtcmalloc_minimal.so.4"),
        ("auto", ("libtcmalloc.so.4",), "/lib/libtcmalloc.so.4"),
        ("auto", ("libjemalloc.so.2",), None),
        ("auto", (), None),
        ("jemalloc", ("libjemalloc.so.2", "libtcmalloc.so.4"), "/lib/libjemalloc.so.2"),
        ("tcmalloc", ("libjemalloc.so.2", "libtcmalloc.so.4"), "/lib/libtcmalloc.so.4"),
        ("system", ("libjemalloc.so.2", "libtcmalloc.so.4"), None),
    ],
)
def test_the_allocator(phase_1: Sandbox, choice: str, installed: tuple[str, ...], preloaded: str | None) -> None:
    install(phase_1, *installed)
    phase_1.variables["ALLOCATOR"] = choice
    environment = phase_1.succeed(PHASE_1).environment
    assert environment.get("LD_PRELOAD") == preloaded
    assert environment.get("TCMALLOC_LARGE_ALLOC_REPORT_THRESHOLD") == ("0" if "tcm" in str(preloaded) else None)
    assert ("dirty_decay_ms:9000000000" in environment.get("MALLOC_CONF", "")) == ("jemalloc" in str(preloaded))
    assert environment.get("GLIBC_TUNABLES") == ("glibc.malloc.hugetlb=1" if preloaded is None else None)


def test_settings_of_allocators_are_kept(phase_1: Sandbox) -> None:
    install(phase_1, "libjemalloc.so.2")
    own = {"MALLOC_CONF": "narenas:1", "LD_PRELOAD": "/no/libiomp5.so"}
    phase_1.variables |= own | {"ALLOCATOR": "jemalloc"}
    environment = phase_1.succeed(PHASE_1).environment
    assert environment["MALLOC_CONF"] == own["MALLOC_CONF"]
    assert environment["LD_PRELOAD"] == f"/lib/libjemalloc.so.2:{own['LD_PRELOAD']}"
    phase_1.variables |= {"ALLOCATOR": "system", "GLIBC_TUNABLES": "glibc.malloc.arena_max=1"}
    tunables = phase_1.succeed(PHASE_1).environment["GLIBC_TUNABLES"]
    assert tunables == "glibc.malloc.arena_max=1:glibc.malloc.hugetlb=1"
    phase_1.variables["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=0"
    assert phase_1.succeed(PHASE_1).environment["GLIBC_TUNABLES"] == "glibc.malloc.hugetlb=0"


def test_an_allocator_that_is_preloaded_already_stays(phase_1: Sandbox) -> None:
    install(phase_1, "libtcmalloc.so.4")
    phase_1.variables["LD_PRELOAD"] = "/no/libjemalloc.so"
    environment = phase_1.succeed(PHASE_1).environment
    assert environment["LD_PRELOAD"] == "/no/libjemalloc.so"
    assert not {"MALLOC_CONF", "GLIBC_TUNABLES"} & set(environment)


@pytest.mark.parametrize("choice", ["tcmalloc", "jemalloc"])
def test_an_allocator_that_is_not_installed_is_named(phase_1: Sandbox, choice: str) -> None:
    install(phase_1)
    phase_1.variables["ALLOCATOR"] = choice
    assert f"error: ALLOCATOR={choice} is not installed here" in phase_1.refuse(PHASE_1)


def use_environment(sandbox: Sandbox, *libraries: str) -> Path:
    """Let the fake python answer with the root of an environment that has these libraries; return their folder."""
    folder = Path(sandbox.folder("environment/lib"))
    for name in libraries:
        (folder / name).touch()
    sandbox.fake("python3", f"'sys.prefix' in sys.argv[-1] and print({str(folder.parent)!r})")
    return folder


def test_intel_openmp_is_loaded_first_if_asked_for(phase_1: Sandbox) -> None:
    folder = use_environment(phase_1, "libiomp5.so")
    phase_1.variables |= {"ALLOCATOR": "system", "LD_PRELOAD": "/no/libmine.so"}
    assert phase_1.succeed(PHASE_1).environment["LD_PRELOAD"] == "/no/libmine.so"
    phase_1.variables["OPENMP"] = "intel"
    assert phase_1.succeed(PHASE_1).environment["LD_PRELOAD"] == f"{folder}/libiomp5.so:/no/libmine.so"


def test_intel_openmp_that_is_not_there_is_named(phase_1: Sandbox) -> None:
    folder = use_environment(phase_1)
    phase_1.variables["OPENMP"] = "intel"
    assert f"error: OPENMP=intel, but {folder}/libiomp5.so is not there" in phase_1.refuse(PHASE_1)
