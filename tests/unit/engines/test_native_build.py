"""Building the kernels: for the CPU that is there, once, by one process, whole or not at all."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from bert_large.engines.native import build
from bert_large.engines.native.build import (
    FOLDER_VARIABLE,
    INSTRUCTION_SETS,
    KernelBuildError,
    best_instruction_set,
    build_kernels,
    kernel_folders,
    library_name,
)

from tests.support.runs import PROJECT, finish, process_environment

# What /proc/cpuinfo lists of vector instructions, cut down to those that matter and some that do not.
_HASWELL = "sse4_2 fma avx f16c avx2 bmi2"
_SKYLAKE_SP = f"{_HASWELL} avx512f avx512dq avx512cd avx512bw avx512vl"
CPUS = {
    "Haswell (E5-2699 v3)": (_HASWELL, "avx2"),
    "Zen 2 (EPYC 7742)": (f"{_HASWELL} sse4a clwb", "avx2"),
    "Skylake-SP (Platinum 8180)": (_SKYLAKE_SP, "avx512"),
    "Ice Lake (Platinum 8380)": (f"{_SKYLAKE_SP} avx512ifma avx512_vbmi2 avx512_vnni", "avx512"),
    "Knights Landing (Phi 7250)": (f"{_HASWELL} avx512f avx512pf avx512er avx512cd", "avx2"),
    "Sapphire Rapids (Platinum 8480+)": (f"{_SKYLAKE_SP} avx_vnni avx512_bf16 amx_bf16 amx_tile", "avx512_bf16"),
    "Zen 4 (EPYC 9654)": (f"{_SKYLAKE_SP} sse4a avx512_bf16 avx512_vnni", "avx512_bf16"),
}


@pytest.mark.parametrize(("flags", "expected"), CPUS.values(), ids=list(CPUS))
def test_best_instruction_set(flags: str, expected: str) -> None:
    assert best_instruction_set(flags.split()) == expected


@pytest.mark.parametrize("flags", ["", "sse4_2 avx f16c", "avx avx2", "fma avx512f avx512bw avx512vl avx512dq"])
def test_a_cpu_that_is_too_old(flags: str) -> None:
    with pytest.raises(KernelBuildError, match=r"needs a CPU with avx2 and fma.*use --engine eager"):
        best_instruction_set(flags.split())


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the sources that the build takes instead."""
    shutil.copytree(build.SOURCES, tmp_path / "csrc")
    monkeypatch.setattr(build, "SOURCES", tmp_path / "csrc")
    return tmp_path / "csrc"


def edit(path: Path) -> None:
    path.write_text(path.read_text() + "\n")


CHANGES: dict[str, Callable[[Path], object]] = {
    "a source": lambda folder: edit(folder / "gelu.cpp"),
    "a header": lambda folder: edit(folder / "vector.h"),
    "a name": lambda folder: (folder / "gelu.h").rename(folder / "gelu2.h"),
    "one more": lambda folder: (folder / "more.cpp").touch(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
def test_the_name_changes_with_the_sources(sources: Path, change: Callable[[Path], object]) -> None:
    before = library_name("avx2")
    assert library_name("avx2") == before
    change(sources)
    assert library_name("avx2") != before


def test_the_name_changes_with_the_build(monkeypatch: pytest.MonkeyPatch) -> None:
    """With instruction set, compiler options and version of PyTorch; the first and the last can be read in it."""
    names = {library_name(name) for name in INSTRUCTION_SETS}
    monkeypatch.setattr(build, "_COMPILER_OPTIONS", ["-O1"])
    names |= {library_name(name) for name in INSTRUCTION_SETS}
    monkeypatch.setattr(torch, "__version__", "9.8.7+cu99")
    names |= {library_name(name) for name in INSTRUCTION_SETS}
    assert len(names) == 9
    assert library_name("avx2").startswith("bert_large-avx2-torch9.8.7-cu99-")


def unknown_user(user_id: int) -> None:
    raise KeyError(f"getpwuid(): uid not found: {user_id}")


def test_where_builds_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the folder named, or in the package's or the user's; also for a user without a home."""
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    assert kernel_folders() == [tmp_path]
    monkeypatch.delenv(FOLDER_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    own = Path(build.__file__).parent / "built"
    assert kernel_folders() == [own, tmp_path / "cache" / "bert-large"]
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert kernel_folders() == [own, tmp_path / ".cache" / "bert-large"]
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", unknown_user)
    assert kernel_folders() == [own]


def test_a_build_that_is_there_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it lies, without a compiler, and nothing is written."""
    folders = [tmp_path / "package", tmp_path / "user"]
    monkeypatch.setattr(build, "kernel_folders", lambda: folders)
    monkeypatch.setenv("CXX", "no-such-compiler")
    folders[1].mkdir()
    (folders[1] / library_name("avx2")).touch()
    assert build_kernels("avx2") == folders[1] / library_name("avx2")
    assert not folders[0].exists() and len(list(folders[1].iterdir())) == 1


def test_no_folder_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file stands where the folder should be; read-only file systems and other owners end the same way."""
    (tmp_path / "file").touch()
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "file" / "kernels"))
    with pytest.raises(
        KernelBuildError, match=f"none of .*file/kernels can be written: name a folder with {FOLDER_VARIABLE}"
    ):
        build_kernels("avx2")


def left_of_a_failed_build(folder: Path) -> set[str]:
    """Return what lies in the folder of kernels."""
    return {path.suffix for path in folder.iterdir()}


def test_without_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names what was looked for and both ways out."""
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "new" / "folder"))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        KernelBuildError, match=r"g\+\+ was not found: install it .*apt-get install g\+\+.*--engine eager"
    ):
        build_kernels("avx2")
    assert left_of_a_failed_build(tmp_path / "new" / "folder") == {".lock"}


def test_a_source_that_does_not_compile(sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiler's first error is in the message, all of it in the log, and nothing half-built is left."""
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "built"))
    for path in sources.iterdir():
        path.unlink()
    (sources / "broken.cpp").write_text("#error this cannot be\n")
    with pytest.raises(KernelBuildError, match=r"failed: .*broken.cpp:1:2: error: .*--engine eager") as caught:
        build_kernels("avx2")
    assert left_of_a_failed_build(tmp_path / "built") == {".lock", ".log"}
    (log,) = (tmp_path / "built").glob("*.log")
    assert str(log) in str(caught.value) and "this cannot be" in log.read_text()
    assert "this cannot be" in str(caught.value)


def test_a_compiler_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setenv("CXX", "/bin/false")
    with pytest.raises(
        KernelBuildError, match=r"with /bin/false failed: .*Error: Command .*/bin/false.*--engine eager"
    ):
        build_kernels("avx2")
    assert left_of_a_failed_build(tmp_path) == {".lock", ".log"}


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of kernels in which two processes, started at once, built those for AVX2."""
    folder = tmp_path_factory.mktemp("kernels") / "new"
    program = "import logging; logging.basicConfig(level=logging.INFO); from bert_large.engines.native import build; " \
              "print(build.build_kernels('avx2'))"  # fmt: skip
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            env=process_environment(**{FOLDER_VARIABLE: str(folder)}),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    results = finish(processes)
    assert [done.returncode for done in results] == [0, 0], results[0].stderr + results[1].stderr
    library = folder / library_name("avx2")
    assert [done.stdout for done in results] == [f"{library}\n"] * 2
    assert sum("building the native kernels" in done.stderr for done in results) == 1
    assert left_of_a_failed_build(folder) == {".lock", ".so"}
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("instruction_set", ["avx2", "avx512", "avx512_bf16"])
def test_every_instruction_set(built: Path, instruction_set: str) -> None:
    """The whole model, dropout on, on kernels for each that this CPU has: as near to double as those for this CPU."""
    if not set(INSTRUCTION_SETS[instruction_set]) <= build.read_cpu_flags():
        pytest.skip(f"this CPU has no {instruction_set}")
    done = subprocess.run(
        [sys.executable, str(PROJECT / "tests" / "support" / "whole_model.py"), instruction_set],
        env=process_environment(**{FOLDER_VARIABLE: str(built)}), capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["instructions"] == instruction_set
    assert found["float32"][0] < 5e-6 and found["bfloat16"][0] < 0.03, found
