"""Checks of the software, on recorded inputs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from bert_large import cpp_library
from bert_large.doctor import software
from bert_large.doctor.finding import OK, PROBLEM, WARNING
from bert_large.engines.native.build import kernels

TORCH = "/venv/lib/python3.11/site-packages/torch/lib/libgomp.so.1"
INTEL = "/opt/my libs/libiomp5.so"
OTHERS = "/venv/scikit_learn.libs/libgomp-a34b3233.so.1.0.0"
MAPS = """\
55d0a0a00000-55d0a0a01000 r--p 00000000 fe:00 1181 /usr/bin/python3.11
7f2c1c000000-7f2c1c021000 rw-p 00000000 00:00 0
7f2c1d000000-7f2c1d010000 r--p 00000000 fe:00 42                         {0}
7f2c1d010000-7f2c1d050000 r-xp 00010000 fe:00 42                         {0}
7f2c1e000000-7f2c1e010000 r--p 00000000 fe:00 43                         {1}
7ffd5a000000-7ffd5a021000 rw-p 00000000 00:00 0                          [stack]
"""


@pytest.mark.parametrize(
    ("first", "second", "runtimes"),
    [
        (TORCH, "/usr/lib/libompt_tools.so", [TORCH]),
        (TORCH, "/usr/lib/x86_64-linux-gnu/libc.so.6", [TORCH]),
        (TORCH, INTEL, [INTEL, TORCH]),
        (TORCH, OTHERS, [OTHERS, TORCH]),
        ("/usr/lib/llvm-14/lib/libomp.so.5", "/libgompertz.so", ["/usr/lib/llvm-14/lib/libomp.so.5"]),
    ],
)
def test_openmp_runtimes(first: str, second: str, runtimes: list[str]) -> None:
    found = software.find_openmp_runtimes(MAPS.format(first, second))
    assert found == sorted(runtimes)
    assert software.check_openmp(found).level == (OK if len(runtimes) == 1 else WARNING)


def test_the_package_loads_one_openmp_runtime() -> None:
    """In a separate process: that of the tests has loaded scikit-learn, which brings another runtime."""
    script = (
        "from pathlib import Path\n"
        "from bert_large.doctor import software\n"
        "software.import_modules()\n"
        "print(*software.find_openmp_runtimes(Path('/proc/self/maps').read_text()), sep='\\n')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) == 1


AVX2 = frozenset({"avx2", "fma"})


def test_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not built yet; without a compiler; in a folder that cannot be written to; built; on a CPU without any."""
    monkeypatch.setenv(cpp_library.FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setenv("CXX", "sh")  # exists and is never called
    waiting = software.check_kernels(AVX2)
    assert waiting.level == WARNING and "bert-large kernels" in waiting.remedy
    monkeypatch.setenv("CXX", "no-such-compiler")
    lacking = software.check_kernels(AVX2)
    assert lacking.level == PROBLEM and "no-such-compiler" in lacking.found
    monkeypatch.setenv("CXX", "sh")
    (tmp_path / "file").touch()
    monkeypatch.setenv(cpp_library.FOLDER_VARIABLE, str(tmp_path / "file/kernels"))
    closed = software.check_kernels(AVX2)
    assert closed.level == PROBLEM and str(tmp_path / "file/kernels") in closed.found
    monkeypatch.setenv(cpp_library.FOLDER_VARIABLE, str(tmp_path))
    (tmp_path / kernels("avx2").file_name).touch()
    assert software.check_kernels(AVX2).found == f"avx2: {tmp_path / kernels('avx2').file_name}"
    assert software.check_kernels(frozenset({"sse2"})).level == PROBLEM


def test_requirements(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"torch": "2.13.0+cpu", "numpy": "1.20.0"}
    monkeypatch.setattr(software, "package_version", versions.get)
    assert software.check_requirements(["torch<2.14,>=2.7", "h5py>=3; extra == 'bench'"]).level == OK
    finding = software.check_requirements(["torch<2.14,>=2.7", "numpy>=1.26", "h5py>=3"])
    assert finding.level == PROBLEM
    assert finding.found == "numpy 1.20.0, expected >=1.26; h5py is not installed, expected >=3"
    assert finding.remedy == "pip install 'numpy>=1.26' 'h5py>=3'"


def test_ipex(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(software, "find_fault", lambda: "IPEX 2.8.0 does not fit torch 2.13.0")
    monkeypatch.setattr(software, "package_version", lambda name: None)
    assert software.check_ipex().level == OK
    monkeypatch.setattr(software, "package_version", lambda name: "2.8.0")
    assert software.check_ipex().level == WARNING
