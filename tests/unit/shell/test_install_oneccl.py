"""docker/install_oneccl.sh: when the bindings are installed, left out or missed, and from where they may come."""

from __future__ import annotations

import subprocess

import pytest

from .sandbox import Sandbox

# A python whose pip may have the bindings, and which may then import them.
PYTHON = "sys.exit('install' in sys.argv and not {has} or 'import' in sys.argv[-1] and not {imports})"
INDEX = "https://index.example/us"


def install(
    sandbox: Sandbox, *arguments: str, has: bool = True, imports: bool = True
) -> subprocess.CompletedProcess[str]:
    sandbox.fake("python3", PYTHON.format(has=has, imports=imports))
    return sandbox.run("docker/install_oneccl.sh", str(sandbox.bin / "python3"), "2.7.0", *arguments)


@pytest.mark.parametrize("mode", ["auto", "required"])
def test_they_come_from_their_index_alone(sandbox: Sandbox, mode: str) -> None:
    sandbox.variables |= {"PIP_EXTRA_INDEX_URL": "http://public", "PIP_FIND_LINKS": "http://links"}
    result = install(sandbox, mode, INDEX)
    assert (result.returncode, result.stdout) == (0, "oneCCL 2.7.0\n")
    pip, trial = sandbox.calls("python3")
    assert pip.value("--index-url") == INDEX
    assert pip.arguments[-1] == "oneccl_bind_pt==2.7.0"
    assert not {"PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"} & set(pip.environment)
    assert "oneccl_bindings_for_pytorch" in trial.arguments[-1]


@pytest.mark.parametrize(
    ("mode", "index", "has", "imports", "reason"),
    [
        ("none", INDEX, True, True, "ONECCL=none"),
        ("auto", "", True, True, "ONECCL_INDEX_URL was not given"),
        ("auto", INDEX, False, True, "version 2.7.0 could not be installed from ONECCL_INDEX_URL"),
        ("auto", INDEX, True, False, "version 2.7.0 could not be installed from ONECCL_INDEX_URL"),
    ],
)
def test_they_are_left_out(sandbox: Sandbox, mode: str, index: str, has: bool, imports: bool, reason: str) -> None:
    result = install(sandbox, mode, index, has=has, imports=imports)
    assert (result.returncode, result.stdout) == (0, f"without oneCCL ({reason})\n")
    assert "uninstall" in sandbox.calls("python3")[-1].arguments


@pytest.mark.parametrize(("index", "reason"), [("", "ONECCL_INDEX_URL"), (INDEX, "could not be installed")])
def test_they_are_missed_where_they_are_required(sandbox: Sandbox, index: str, reason: str) -> None:
    result = install(sandbox, "required", index, has=False)
    assert (result.returncode, result.stdout) == (1, "")
    assert "error: ONECCL=required, but" in result.stderr
    assert reason in result.stderr


def test_an_unknown_mode(sandbox: Sandbox) -> None:
    result = install(sandbox, "maybe")
    assert result.returncode == 1
    assert "ONECCL=maybe is unknown" in result.stderr
