"""Building the kernels: for which CPU, in which folder, with which compiler, and never half."""

from __future__ import annotations

import errno
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bert_large import cpp_library
from bert_large.cpp_library import FOLDER_VARIABLE, CppLibrary, LibraryBuildError, find_compiler
from bert_large.engines.native import build
from bert_large.engines.native.build import INSTRUCTION_SETS, best_instruction_set, kernels

from tests.support.runs import PROJECT, finish, process_environment

# Vector instructions that /proc/cpuinfo lists: those that matter, and some that do not.
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
    with pytest.raises(LibraryBuildError, match=r"avx2 and fma.*--engine eager"):
        best_instruction_set(flags.split())


# --- A build's name changes with everything that the build depends on


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the sources that is built instead of them."""
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
    before = kernels("avx2").file_name
    assert kernels("avx2").file_name == before
    change(sources)
    assert kernels("avx2").file_name != before


def test_the_name_changes_with_the_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Instruction set, options, PyTorch, std::string's layout, C library and compiler."""
    names = {kernels(name).file_name for name in INSTRUCTION_SETS}
    changes: list[tuple[object, str, object]] = [
        (build, "_COMPILER_OPTIONS", ("-O1",)),
        (torch, "__version__", "9.8.7+cu99"),
        (torch.version, "git_version", "0123456"),
        (torch, "compiled_with_cxx11_abi", lambda: False),
        (platform, "libc_ver", lambda: ("glibc", "9.9")),
        (cpp_library, "compiler_version", lambda: "g++ 99.1"),
    ]
    for target, name, value in changes:
        monkeypatch.setattr(target, name, value)
        names |= {kernels(name).file_name for name in INSTRUCTION_SETS}
    assert len(names) == 3 * (1 + len(changes))
    assert kernels("avx2").file_name.startswith("bert_large-avx2-torch9.8.7-cu99-")


# --- Where builds are, and which of them is used


def unknown_user(user_id: int) -> None:
    raise KeyError(f"getpwuid(): uid not found: {user_id}")


def test_folders_of_builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder that is named, or the package's and the user's; also for a user without a home."""
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    assert kernels("avx2").folders == (tmp_path,)
    monkeypatch.delenv(FOLDER_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    own = Path(build.__file__).parent / "built"
    assert kernels("avx2").folders == (own, tmp_path / "cache" / "bert-large")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert kernels("avx2").folders == (own, tmp_path / ".cache" / "bert-large")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", unknown_user)
    assert kernels("avx2").folders == (own,)


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Two folders for builds, neither of which exists; compiling takes no time."""
    folders = [tmp_path / "package", tmp_path / "user"]
    monkeypatch.setattr(build, "build_folders", lambda own: tuple(folders))
    monkeypatch.setattr(CppLibrary, "_compile", lambda self, library: library.write_text(self.name))
    return folders


def add_build(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / kernels("avx2").file_name).touch()
    return folder / kernels("avx2").file_name


def test_an_existing_build_is_used(folders: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """In any folder; nothing is compiled or written."""
    built = add_build(folders[1])
    monkeypatch.setattr(CppLibrary, "_compile", None)
    assert kernels("avx2").build() == built
    assert not folders[0].exists() and list(folders[1].iterdir()) == [built]


def test_a_build_by_another_compiler(folders: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Is used where there is no compiler, or where no folder can be written; otherwise the kernels are built again."""
    with monkeypatch.context() as context:
        context.setattr(cpp_library, "compiler_version", lambda: "g++ 99.1")
        other = add_build(folders[1])
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert kernels("avx2").find() == kernels("avx2").build() == other
    monkeypatch.setattr(cpp_library, "compiler_version", lambda: "g++ 99.2")
    monkeypatch.setattr(CppLibrary, "_compile", raise_os_error)
    assert kernels("avx2").find() is None and kernels("avx2").build() == other
    monkeypatch.setattr(CppLibrary, "_compile", lambda self, library: library.touch())
    assert kernels("avx2").build() == kernels("avx2").find() == folders[0] / kernels("avx2").file_name != other


def raise_os_error(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def forbid_method(monkeypatch: pytest.MonkeyPatch, name: str, forbidden: Path) -> None:
    """Make a method of paths fail in a folder, as in a folder of another user; root may enter those."""
    method = getattr(Path, name)

    def forbid(path: Path, *arguments: Any, **options: Any) -> Any:
        if forbidden in (path, *path.parents):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return method(path, *arguments, **options)

    monkeypatch.setattr(Path, name, forbid)


METHODS = ("glob", "is_file", "exists", "mkdir", "open")


@pytest.mark.parametrize("number", [0, 1])
def test_a_folder_that_must_not_be_entered(folders: list[Path], number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is skipped, whichever it is: a build in the other is found, and without one it is built there."""
    for method in METHODS:
        forbid_method(monkeypatch, method, folders[number])
    assert kernels("avx2").find() is None
    expected = folders[1 - number] / kernels("avx2").file_name
    assert kernels("avx2").build() == expected
    assert kernels("avx2").find() == expected


def test_no_folder_can_be_written(folders: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names each folder with its reason: a file is in its place, and no space is left on the device."""
    folders[0].touch()
    monkeypatch.setattr(CppLibrary, "_compile", raise_os_error)
    with pytest.raises(LibraryBuildError, match=FOLDER_VARIABLE) as caught:
        kernels("avx2").build()
    for folder, reason in zip(folders, (errno.EEXIST, errno.ENOSPC), strict=True):
        assert f"{folder} ({os.strerror(reason)})" in str(caught.value)


def test_a_file_system_without_locks(folders: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpp_library.fcntl, "flock", raise_os_error)
    assert kernels("avx2").build() == folders[0] / kernels("avx2").file_name


def test_a_library_that_cannot_be_loaded(folders: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "read_cpu_flags", lambda: {"avx2", "fma"})
    with pytest.raises(LibraryBuildError) as caught:
        build.load_kernels.__wrapped__()
    assert str(folders[0] / kernels("avx2").file_name) in str(caught.value)


# --- The compiler


@pytest.mark.parametrize(
    ("variable", "expected"),
    [
        (None, ["g++"]),
        ("", ["g++"]),
        ("{tools}/my g++", ["{tools}/my g++"]),
        ("ccache g++ -B/usr", ["ccache", "g++", "-B/usr"]),
        ("'{tools}/my g++' -x", ["{tools}/my g++", "-x"]),
        ("no-such-compiler", None),
        ("'g++", None),
        (" ", None),
    ],
)
def test_the_compiler(
    variable: str | None, expected: list[str] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name, a path with spaces, or words as in a shell, as make has it."""
    tools = tmp_path / "more tools"
    tools.mkdir()
    for name in ("g++", "ccache", "my g++"):
        (tools / name).touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tools))
    monkeypatch.delenv("CXX", raising=False)
    if variable is not None:
        monkeypatch.setenv("CXX", variable.format(tools=tools))
    assert find_compiler() == (expected and [word.format(tools=tools) for word in expected])


def suffixes(folder: Path) -> set[str]:
    """Return the kinds of files in a folder of builds."""
    return {path.suffix for path in folder.iterdir()}


def test_without_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the compiler, how to install it, and the engine that needs none."""
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "new" / "folder"))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LibraryBuildError, match=r"g\+\+.*apt-get install g\+\+.*--engine eager"):
        kernels("avx2").build()
    assert suffixes(tmp_path / "new" / "folder") == {".lock"}


def test_a_source_that_does_not_compile(sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error has the compiler's first error, the log all of its output, and nothing half-built is left."""
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "built"))
    for path in sources.iterdir():
        path.unlink()
    (sources / "broken.cpp").write_text("#error this cannot be\n")
    with pytest.raises(LibraryBuildError, match=r"broken.cpp:1:2: error: .*--engine eager") as caught:
        kernels("avx2").build()
    assert suffixes(tmp_path / "built") == {".lock", ".log"}
    (log,) = (tmp_path / "built").glob("*.log")
    assert str(log) in str(caught.value) and "this cannot be" in log.read_text()


def test_a_compiler_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a message: the error has its exit code."""
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setenv("CXX", "/bin/false")
    with pytest.raises(LibraryBuildError, match=r"/bin/false.*exit code 1.*--engine eager"):
        kernels("avx2").build()
    assert suffixes(tmp_path) == {".lock", ".log"}


ODD = "a b 'c' \"d\" $HOME `e` üñ漢 %s %{x} \n;&|*?[](){}<>#~!\\ end,=:@"


@pytest.fixture
def odd_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with every character that a shell or a build tool could misread: for sources, PyTorch and build."""
    folder = tmp_path / ODD
    folder.mkdir()
    shutil.copytree(build.SOURCES, folder / "csrc")
    (folder / "torch").symlink_to(Path(torch.__file__).parent)
    monkeypatch.setattr(build, "SOURCES", folder / "csrc")
    monkeypatch.setattr(torch, "__file__", str(folder / "torch" / "__init__.py"))
    monkeypatch.setenv(FOLDER_VARIABLE, str(folder / "built"))
    return folder


def test_odd_paths(odd_paths: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiler gets each path as one unchanged argument, not through a shell or a file."""
    compiler = odd_paths / "compiler"
    compiler.write_text(f"#!{sys.executable}\n" + NOTING_COMPILER)
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("NOTES", str(odd_paths))
    library = kernels("avx2").build()
    assert library.read_text() == "linked"
    calls = [json.loads(path.read_text()) for path in odd_paths.glob("*.call")]
    compiled = {call[call.index("-c") + 1] for call in calls if "-c" in call}
    assert compiled == {str(path) for path in (odd_paths / "csrc").glob("*.cpp")}
    (link,) = (call for call in calls if "-shared" in call)
    assert f"-L{odd_paths / 'torch' / 'lib'}" in link
    assert all(f"-isystem{odd_paths / 'torch' / 'include'}" in call for call in calls if "-c" in call)


NOTING_COMPILER = """
import json, os, pathlib, sys, uuid
arguments = sys.argv[1:]
if arguments == ["--version"]:
    sys.exit()
(pathlib.Path(os.environ["NOTES"]) / f"{uuid.uuid4()}.call").write_text(json.dumps(arguments))
pathlib.Path(arguments[arguments.index("-o") + 1]).write_text("linked" if "-shared" in arguments else "")
"""


@pytest.mark.slow
def test_odd_paths_with_the_real_compiler(odd_paths: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (odd_paths / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(odd_paths / "tmp"))
    library = kernels("avx2").build()
    program = "import sys, torch; torch.ops.load_library(sys.argv[1]); print(torch.ops.bert_large.global_norm([]))"
    done = subprocess.run([sys.executable, "-c", program, str(library)], capture_output=True, text=True, check=False)
    assert done.stdout == "0.0\n", done.stderr


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which two processes, started together, built the kernels for AVX2; only one of them compiled."""
    folder = tmp_path_factory.mktemp("kernels") / "new"
    program = "import logging; logging.basicConfig(level=logging.INFO); from bert_large.engines.native import build; " \
              "print(build.kernels('avx2').build())"  # fmt: skip
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
    library = folder / kernels("avx2").file_name
    assert [done.stdout for done in results] == [f"{library}\n"] * 2
    assert sum("building the native kernels" in done.stderr for done in results) == 1
    assert suffixes(folder) == {".lock", ".so"}
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("instruction_set", ["avx2", "avx512", "avx512_bf16"])
def test_every_instruction_set(built: Path, instruction_set: str) -> None:
    """The whole model with dropout, on kernels for each instruction set of this CPU: as accurate as on the best one."""
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
