"""docker/check_packages.sh and docker/shrink.sh: the packages of a base image."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from .sandbox import Sandbox

ALLOWED = "mlperf-logging 4.1.68 requires pandas, which is not installed."
FINE = "No broken requirements found."
BROKEN = "torch 2.13.0 requires jinja2, which is not installed."


@pytest.mark.parametrize(
    ("lines", "code"), [([FINE], 0), ([ALLOWED, ALLOWED.replace("pandas", "scipy")], 0), ([ALLOWED, BROKEN], 1)]
)
def test_a_missing_requirement_is_an_error(sandbox: Sandbox, lines: list[str], code: int) -> None:
    sandbox.fake("python3", f"print(*{lines!r}, sep='\\n'); sys.exit({lines != [FINE]})")
    result = sandbox.run("docker/check_packages.sh", str(sandbox.bin / "python3"))
    assert result.returncode == code, result.stderr
    assert (BROKEN in result.stderr) == (code == 1)


@pytest.mark.parametrize(
    ("versions", "code"), [("2.8.0, 2.7.0", 0), ("2.7.0", 0), ("2.7.0+cpu, 12.7.0, 2.7.00", 1), ("", 1)]
)
def test_a_version_is_looked_up(sandbox: Sandbox, versions: str, code: int) -> None:
    sandbox.fake("python3", f"print('name (1.0)\\nAvailable versions: {versions}'); sys.exit({not versions})")
    result = sandbox.run("docker/check_packages.sh", "--available", str(sandbox.bin / "python3"), "name==2.7.0")
    assert result.returncode == code, result.stderr
    assert code == 0 or "name 2.7.0" in result.stderr


def test_tests_are_removed_and_headers_packed(sandbox: Sandbox) -> None:
    torch = Path(sandbox.folder("packages/torch"))
    for name in (
        "__init__.py",
        "lib/libtorch.so",
        "bin/torch_shm_manager",
        "bin/test_api",
        "test/a",
        "include/c10/a.h",
    ):
        sandbox.file(f"packages/torch/{name}")
    for name in ("numpy/a.py", "numpy/core/tests/b.py", "sympy/polys/benchmarks/c.py", "other/benchmarks/d.py"):
        sandbox.file(f"packages/{name}")
    sandbox.fake("strip")
    for tool in ("find", "tar", "gzip"):
        sandbox.link_tool(tool)
    sandbox.fake("python3", f"print({str(torch)!r})")
    result = sandbox.run("docker/shrink.sh", str(sandbox.bin / "python3"))
    assert result.returncode == 0, result.stderr
    assert sandbox.calls("strip")[0].arguments[-1] == "lib/libtorch.so"
    others = {path.name for path in torch.parent.rglob("*.py") if torch not in path.parents}
    assert others == {"a.py", "d.py"}
    left = {path.relative_to(torch).as_posix() for path in torch.rglob("*") if path.is_file()}
    assert left == {"__init__.py", "lib/libtorch.so", "bin/torch_shm_manager", "include.tar.gz"}
    with tarfile.open(torch / "include.tar.gz") as packed:
        assert "include/c10/a.h" in packed.getnames()
