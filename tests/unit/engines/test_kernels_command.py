"""`bert-large kernels`: which kernels it builds, what it prints, and its errors."""

from __future__ import annotations

from pathlib import Path

import pytest
from bert_large.cli import main
from bert_large.engines import precision
from bert_large.engines.native import build


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for kernels whose compilation takes no time, on a CPU with AVX2 alone."""
    monkeypatch.setenv(build.FOLDER_VARIABLE, str(tmp_path / "kernels"))
    monkeypatch.setattr(precision, "read_cpu_flags", lambda: frozenset({"fma", "avx2"}))
    monkeypatch.setattr(build, "_compile", lambda instruction_set, library: library.write_text(instruction_set))
    return tmp_path / "kernels"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], ["avx2"]),
        (["--instruction-set", "avx512"], ["avx512"]),
        (["--all"], ["avx512_bf16", "avx512", "avx2"]),
    ],
)
def test_what_is_built(
    arguments: list[str], expected: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["kernels", *arguments]) == 0
    printed = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert [name for name, _ in printed] == expected
    for name, path in printed:
        assert Path(path) == folder / build.library_name(name)
        assert Path(path).read_text() == name


def test_what_is_there_is_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["kernels"]) == 0
    monkeypatch.setattr(build, "_compile", None)
    assert main(["kernels"]) == 0


def test_an_unknown_instruction_set(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["kernels", "--instruction-set", "sse2"]) == 2
    assert "expected one of avx512_bf16, avx512, avx2" in capsys.readouterr().err


def test_an_old_cpu(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(precision, "read_cpu_flags", lambda: frozenset({"sse2"}))
    assert main(["kernels"]) == 1
    assert "--engine eager" in capsys.readouterr().err


def test_no_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv(build.FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setenv("CXX", "no-compiler")
    assert main(["kernels", "--instruction-set", "avx2"]) == 1
    error = capsys.readouterr().err
    assert "no-compiler was not found: install it" in error and "--engine eager" in error
    assert not list(tmp_path.glob("*.so"))
