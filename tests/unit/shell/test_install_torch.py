"""docker/install_torch.sh: which sources it tries, in which order, and what counts as installed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from .sandbox import Sandbox

# A python that answers, on standard input, what the file `torch` says is installed, and whose pip writes that file.
PYTHON = """
import pathlib, shutil
state = pathlib.Path({folder!r}) / "torch"
words = sys.argv[1:]
if words[0] == "-":
    print(state.read_text() if state.exists() else "absent")
elif "--target" in words:
    tool = pathlib.Path(words[words.index("--target") + 1]) / "bin/uv"
    tool.parent.mkdir(parents=True)
    shutil.copy(pathlib.Path({folder!r}) / "tools/uv", tool)
elif "versions" in words:
    print("torch (2.13.0+cpu)\\nAvailable versions: 2.14.0+cpu, " + ("2.13.0+cpu" if {pip_has_torch} else "2.13.0"))
elif {pip_has_torch}:
    state.write_text({installs!r})
else:
    sys.exit("ERROR: No matching distribution found")
"""
UV = """
import pathlib
if not {works} or ({only_for_gpus} and "--torch-backend=cpu" in sys.argv):
    sys.exit("error: no index")
pathlib.Path({folder!r}, "torch").write_text({installs!r})
"""


@pytest.fixture
def fakes(sandbox: Sandbox) -> Sandbox:
    """A python whose pip has no torch, and a uv that has it."""
    set_up(sandbox, pip_has_torch=False, uv_works=True)
    return sandbox


def set_up(
    sandbox: Sandbox, *, pip_has_torch: bool, uv_works: bool, installs: str = "ok", only_for_gpus: bool = False
) -> None:
    folder = str(sandbox.directory)
    tools = Path(sandbox.folder("tools"))
    sandbox.fake("python3", PYTHON.format(folder=folder, pip_has_torch=pip_has_torch, installs=installs))
    sandbox.fake(
        "uv", UV.format(folder=folder, works=uv_works, installs=installs, only_for_gpus=only_for_gpus), directory=tools
    )


def install(sandbox: Sandbox, *arguments: str) -> subprocess.CompletedProcess[str]:
    return sandbox.run("docker/install_torch.sh", str(sandbox.bin / "python3"), *arguments)


def pips(sandbox: Sandbox) -> list[list[str]]:
    """Return the arguments of each call of pip."""
    return [call.arguments for call in sandbox.calls("python3") if call.arguments[:2] == ["-m", "pip"]]


@pytest.mark.parametrize(
    ("pip_has_torch", "uv_works", "only_for_gpus", "build", "code"),
    [
        (True, False, False, "cpu", 0),
        (False, True, False, "cpu", 0),
        (False, True, True, "cpu", 1),
        (False, True, True, "any", 0),
        (False, False, False, "any", 1),
    ],
)
def test_looking_it_up_installs_nothing(
    sandbox: Sandbox, pip_has_torch: bool, uv_works: bool, only_for_gpus: bool, build: str, code: int
) -> None:
    set_up(sandbox, pip_has_torch=pip_has_torch, uv_works=uv_works, only_for_gpus=only_for_gpus)
    sandbox.variables["TORCH_BUILD"] = build
    result = sandbox.run("docker/install_torch.sh", "--check", str(sandbox.bin / "python3"))
    assert result.returncode == code, result.stderr
    assert not [words for words in pips(sandbox) if words[2] == "install" and "--target" not in words]
    assert all("--dry-run" in call.arguments for call in sandbox.calls("uv"))
    assert code == 0 or "torch 2.13.0" in result.stderr.splitlines()[-1]


def test_pip_is_asked_for_the_build_for_cpus(sandbox: Sandbox) -> None:
    set_up(sandbox, pip_has_torch=True, uv_works=True)
    result = install(sandbox)
    assert result.returncode == 0, result.stderr
    assert pips(sandbox) == [["-m", "pip", "install", "--quiet", "torch==2.13.0+cpu"]]
    assert sandbox.calls("uv") == []


def test_uv_installs_what_pip_has_not(fakes: Sandbox) -> None:
    fakes.variables |= {"PIP_CERT": "/my certificates", "PIP_INDEX_URL": "http://index"}
    result = install(fakes, "2.12.1")
    assert result.returncode == 0, result.stderr
    assert pips(fakes)[0][-1] == "torch==2.12.1+cpu"
    (call,) = fakes.calls("uv")
    assert call.arguments[-1] == "torch==2.12.1"
    assert "--torch-backend=cpu" in call.arguments
    assert call.value("--python") == str(fakes.bin / "python3")
    assert call.environment["SSL_CERT_FILE"] == "/my certificates"
    assert call.environment["UV_DEFAULT_INDEX"] == "http://index"


def test_nothing_is_done_when_it_is_there(fakes: Sandbox) -> None:
    (fakes.directory / "torch").write_text("ok")
    assert install(fakes).returncode == 0
    assert pips(fakes) == []


def test_another_version_is_replaced(fakes: Sandbox) -> None:
    (fakes.directory / "torch").write_text("version")
    assert install(fakes).returncode == 0
    assert len(fakes.calls("uv")) == 1


def test_when_both_fail_the_error_names_both_and_the_way_out(sandbox: Sandbox) -> None:
    set_up(sandbox, pip_has_torch=False, uv_works=False)
    result = install(sandbox)
    assert result.returncode == 1
    error = result.stderr.splitlines()[-1]
    for word in ("pip", "torch==2.13.0+cpu", "uv", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
        assert word in error
    assert "No matching distribution" in result.stderr


def test_a_build_for_gpus_is_refused(sandbox: Sandbox) -> None:
    set_up(sandbox, pip_has_torch=True, uv_works=True, installs="gpu")
    result = install(sandbox)
    assert result.returncode == 1
    assert "GPUs" in result.stderr
    assert "uninstall" in result.stderr


def test_a_build_for_gpus_is_taken_where_it_is_allowed_and_the_only_one(sandbox: Sandbox) -> None:
    set_up(sandbox, pip_has_torch=False, uv_works=True, installs="gpu", only_for_gpus=True)
    sandbox.variables["TORCH_BUILD"] = "any"
    result = install(sandbox)
    assert result.returncode == 0, result.stderr
    assert "TORCH_BUILD=any allows" in result.stdout
    backends = ["--torch-backend=cpu" in call.arguments for call in sandbox.calls("uv")]
    assert backends == [True, False]


def test_a_build_for_cpus_comes_first_where_any_is_allowed(fakes: Sandbox) -> None:
    fakes.variables["TORCH_BUILD"] = "any"
    assert install(fakes).returncode == 0
    assert len(fakes.calls("uv")) == 1


def test_an_unknown_build(fakes: Sandbox) -> None:
    fakes.variables["TORCH_BUILD"] = "cuda"
    result = install(fakes)
    assert result.returncode == 1
    assert "TORCH_BUILD=cuda is unknown" in result.stderr


def test_wrong_usage(sandbox: Sandbox) -> None:
    assert sandbox.run("docker/install_torch.sh").returncode == 1


@pytest.mark.parametrize(
    ("version", "cuda", "answer"),
    [
        ("2.13.0+cpu", None, "ok"),
        ("2.13.0", None, "ok"),
        ("2.12.0+cpu", None, "version"),
        ("2.13.0+cu130", "13.0", "gpu"),
    ],
)
def test_what_counts_as_installed(sandbox: Sandbox, version: str, cuda: str | None, answer: str) -> None:
    package = Path(sandbox.folder("packages/torch"))
    (package / "__init__.py").write_text(f"__version__ = {version!r}\nfrom torch import version")
    (package / "version.py").write_text(f"cuda = {cuda!r}\nhip = None")
    real = "'-m' in sys.argv and sys.exit('no pip'); os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    sandbox.fake("python3", real)
    sandbox.variables["PYTHONPATH"] = str(package.parent)
    result = install(sandbox)
    assert ("already installed" in result.stdout) == (answer == "ok")
    assert result.returncode == (0 if answer == "ok" else 1)
