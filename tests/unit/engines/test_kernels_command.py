"""`bert-large kernels`: the kernels it builds, its output and its errors."""

from __future__ import annotations

from pathlib import Path

import bert_large.cpu
import pytest
from bert_large.cli import main
from bert_large.cpp_library import FOLDER_VARIABLE, CppLibrary
from bert_large.distributed.ccl import libraries
from bert_large.distributed.ccl.plugin import bindings
from bert_large.engines.native import build


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for kernels, on a CPU with AVX2 only, without oneCCL; compiling takes no time."""
    monkeypatch.setattr(libraries, "has_oneccl", lambda: False)
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "kernels"))
    monkeypatch.setattr(bert_large.cpu, "read_cpu_flags", lambda: frozenset({"fma", "avx2"}))
    monkeypatch.setattr(CppLibrary, "_compile", lambda self, library: library.write_text(self.name))
    return tmp_path / "kernels"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], ["avx2"]),
        (["--instruction-set", "avx512"], ["avx512"]),
        (["--all"], ["avx512_bf16", "avx512", "avx2"]),
    ],
)
def test_kernels_are_built(
    arguments: list[str], expected: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["kernels", *arguments]) == 0
    printed = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert [name for name, _ in printed] == expected
    for name, path in printed:
        assert Path(path) == folder / build.kernels(name).file_name
        assert Path(path).read_text() == f"bert_large-{name}"


@pytest.mark.parametrize(("arguments", "built"), [([], True), (["--all"], True), (["--instruction-set=avx2"], False)])
def test_the_bindings_for_oneccl_are_built(
    arguments: list[str], built: bool, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where it is installed, unless one instruction set of the kernels is asked for."""
    oneccl = libraries.OneCcl("2021.16.2", folder / "libccl.so.1", folder, folder / "libfabric.so.1")
    monkeypatch.setattr(libraries, "has_oneccl", lambda: True)
    monkeypatch.setattr(libraries, "find_oneccl", lambda: oneccl)
    assert main(["kernels", *arguments]) == 0
    path = bindings(oneccl).find()
    assert (path is not None) == built
    assert (f"oneccl  {path}\n" in capsys.readouterr().out) == built


def test_existing_kernels_are_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["kernels"]) == 0
    monkeypatch.setattr(CppLibrary, "_compile", None)
    assert main(["kernels"]) == 0


def test_an_unknown_instruction_set(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["kernels", "--instruction-set", "sse2"]) == 2
    error = capsys.readouterr().err
    assert all(word in error for word in ("'sse2'", *build.INSTRUCTION_SETS))


def test_an_old_cpu(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(bert_large.cpu, "read_cpu_flags", lambda: frozenset({"sse2"}))
    assert main(["kernels"]) == 1
    assert "--engine eager" in capsys.readouterr().err


def test_no_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setenv("CXX", "no-compiler")
    assert main(["kernels", "--instruction-set", "avx2"]) == 1
    error = capsys.readouterr().err
    assert "no-compiler" in error and "--engine eager" in error
    assert not list(tmp_path.glob("*.so"))
