"""docker/install_oneccl.sh: when the bindings are installed, omitted or required, and from which index."""

from __future__ import annotations

import subprocess

import pytest

from .sandbox import Sandbox

# A python whose pip may have the bindings, which may then be importable.
PYTHON = """
if "versions" in sys.argv:
    print("oneccl-bind-pt (2.7.0+cpu)\\nAvailable versions: {versions}")
sys.exit("install" in sys.argv and not {has} or "import" in sys.argv[-1] and not {imports})
"""
INDEX = "https://index.example/us"


def install(
    sandbox: Sandbox, *arguments: str, has: bool = True, imports: bool = True, versions: str = ""
) -> subprocess.CompletedProcess[str]:
    sandbox.fake("python3", PYTHON.format(has=has, imports=imports, versions=versions))
    options = [argument for argument in arguments if argument == "--check"]
    rest = [argument for argument in arguments if argument != "--check"]
    return sandbox.run("docker/install_oneccl.sh", *options, str(sandbox.bin / "python3"), "2.7.0", *rest)


@pytest.mark.parametrize("mode", ["auto", "required"])
def test_only_their_index_is_used(sandbox: Sandbox, mode: str) -> None:
    sandbox.variables |= {"PIP_EXTRA_INDEX_URL": "http://public", "PIP_FIND_LINKS": "http://links"}
    result = install(sandbox, mode, INDEX)
    assert (result.returncode, result.stdout) == (0, "oneCCL 2.7.0\n")
    pip, trial = sandbox.calls("python3")
    assert pip.value("--index-url") == INDEX
    assert "oneccl_bind_pt==2.7.0" in pip.arguments
    assert not {"PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"} & set(pip.environment)
    assert "oneccl_bindings_for_pytorch" in trial.arguments[-1]


@pytest.mark.parametrize(
    ("mode", "index", "has", "imports", "reason"),
    [
        ("none", INDEX, True, True, "ONECCL=none"),
        ("auto", "", True, True, "ONECCL_INDEX_URL"),
        ("auto", INDEX, False, True, "2.7.0"),
        ("auto", INDEX, True, False, "2.7.0"),
    ],
)
def test_they_are_omitted(sandbox: Sandbox, mode: str, index: str, has: bool, imports: bool, reason: str) -> None:
    result = install(sandbox, mode, index, has=has, imports=imports)
    assert result.returncode == 0
    (line,) = result.stdout.splitlines()
    assert line.startswith("without oneCCL (") and reason in line
    assert "uninstall" in sandbox.calls("python3")[-1].arguments


@pytest.mark.parametrize("index", ["", INDEX])
def test_an_error_if_they_are_required(sandbox: Sandbox, index: str) -> None:
    result = install(sandbox, "required", index, has=False)
    assert (result.returncode, result.stdout) == (1, "")
    assert "ONECCL=required" in result.stderr and "ONECCL_INDEX_URL" in result.stderr


@pytest.mark.parametrize(
    ("mode", "index", "versions", "code"),
    [
        ("required", INDEX, "2.8.0+cpu, 2.7.0+cpu", 0),
        ("required", INDEX, "2.7.0", 0),
        ("required", INDEX, "2.7.00, 12.7.0", 1),
        ("required", "", "2.7.0", 1),
        ("auto", INDEX, "", 0),
        ("none", "", "", 0),
    ],
)
def test_looking_them_up_installs_nothing(sandbox: Sandbox, mode: str, index: str, versions: str, code: int) -> None:
    result = install(sandbox, "--check", mode, index, versions=versions)
    assert result.returncode == code, result.stderr
    assert not [call for call in sandbox.calls("python3") if "install" in call.arguments]


def test_an_unknown_mode(sandbox: Sandbox) -> None:
    result = install(sandbox, "maybe")
    assert result.returncode == 1
    assert "ONECCL=maybe" in result.stderr
