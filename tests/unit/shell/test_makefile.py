"""The Makefile: the packages and commands of each target, and errors of set-up."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from .sandbox import PROJECT, Sandbox

# A python that creates environments of fake tools, and that has torch.
PYTHON = """
import pathlib, shutil
words = sys.argv[1:]
if words[:2] == ["-m", "venv"]:
    folder = pathlib.Path(words[2], "bin")
    folder.mkdir(parents=True)
    for tool in pathlib.Path({tools!r}).iterdir():
        shutil.copy(tool, folder)
elif words[0] == "-":
    print("ok")
"""
INSTALLED = ("python", "pip", "pip-audit", "pytest", "ruff", "mypy", "shellcheck", "bert-large")


@pytest.fixture
def project(sandbox: Sandbox) -> Sandbox:
    """A project whose python3 creates environments of fake tools."""
    sandbox.fake("g++")
    for tool in ("make", "sh", "touch", "find", "expand"):
        (sandbox.bin / tool).symlink_to(str(shutil.which(tool)))
    shutil.copy2(PROJECT / "Makefile", sandbox.project)
    tools = Path(sandbox.folder("tools"))
    for tool in INSTALLED:
        sandbox.fake(tool, "sys.argv[1:2] == ['-'] and print('ok')", directory=tools)
    sandbox.fake("python3", PYTHON.format(tools=str(tools)))
    return sandbox


def make(sandbox: Sandbox, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", *arguments], env={"PATH": str(sandbox.bin)}, cwd=sandbox.project, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def installs(sandbox: Sandbox) -> list[list[str]]:
    return [call.arguments for call in sandbox.calls("pip")]


def test_setup_installs_once(project: Sandbox) -> None:
    assert make(project, "setup").returncode == 0
    assert installs(project) == [["install", "--editable", "."]]
    assert make(project, "setup").returncode == 0
    assert len(installs(project)) == 1
    later = (project.project / ".venv/.installed").stat().st_mtime + 10
    os.utime(project.project / "pyproject.toml", (later, later))
    assert make(project, "setup").returncode == 0
    assert len(installs(project)) == 2


@pytest.mark.parametrize(("target", "marked"), [("test", ["not slow"]), ("test-slow", ["slow"]), ("test-all", [])])
def test_tests_install_the_extra_and_run_pytest(project: Sandbox, target: str, marked: list[str]) -> None:
    for _ in range(2):
        assert make(project, target, "PYTEST_ARGS=-k name").returncode == 0
    more = [call for call in installs(project) if call != ["install", "--editable", ".[test]"]]
    assert len(installs(project)) == 1 + len(more)
    assert [call[:2] for call in more] == ([["install", "--no-deps"]] if target == "test-slow" else [])
    for call in project.calls("pytest"):
        assert call.values("-m") == marked
        assert call.arguments[-2:] == ["-k", "name"]


def test_demo_installs_the_extra_and_runs_the_demo_with_it(project: Sandbox) -> None:
    (project.project / "quickstart/demo.sh").write_text('#!/usr/bin/env bash\n"$PYTHON" -m demo\n')
    assert make(project, "demo").returncode == 0
    assert installs(project) == [["install", "--editable", ".[plot]"]]
    assert project.calls("python")[-1].arguments == ["-m", "demo"]


def test_bench_installs_the_extra_and_writes_a_record(project: Sandbox) -> None:
    assert make(project, "bench", "BENCH_ARGS=--engine eager").returncode == 0
    assert installs(project) == [["install", "--editable", ".[bench]"]]
    assert project.calls("python")[-1].arguments == ["benchmarks/record.py", "--engine", "eager"]


def test_fuzz_installs_the_extra_and_fuzzes_every_reader(project: Sandbox) -> None:
    assert make(project, "fuzz", "FUZZ_RUNS=9").returncode == 0
    assert sorted(installs(project)) == [["install", "--editable", ".[fuzz]"], ["install", "--editable", ".[test]"]]
    called = [call.arguments for call in project.calls("python")][-4:]
    assert called == [["-m", "tests.fault.fuzz", name, "9"] for name in ("tfrecord", "example", "hdf5", "checkpoint")]


@pytest.mark.parametrize(("target", "module"), [("fault", "kills"), ("soak", "soak")])
def test_long_tests_are_given_their_arguments(project: Sandbox, target: str, module: str) -> None:
    assert make(project, target, f"{target.upper()}_ARGS=--minutes 9").returncode == 0
    assert installs(project) == [["install", "--editable", ".[test]"]]
    assert project.calls("python")[-1].arguments == ["-m", f"tests.fault.{module}", "--minutes", "9"]


def test_audit_checks_the_environment_and_the_images_locks(project: Sandbox) -> None:
    """A list with findings, or with a package that the service does not know, does not stop the check of the others."""
    tools = project.directory / "tools"
    project.fake("pip", "'list' in sys.argv and print('torch==2.13.0+cpu\\nnumpy==2.4.6')", directory=tools)
    project.fake("pip-audit", "sys.exit('requirements-ipex' in ' '.join(sys.argv))", directory=tools)
    assert make(project, "audit", "AUDIT_ARGS=-s osv").returncode == 2
    assert installs(project)[0] == ["install", "--editable", ".[audit]"]
    options = ["--strict", "--no-deps", "--disable-pip", "--requirement"]
    lists = [".venv/audited.txt", *(f"docker/requirements-{name}.txt" for name in ("finetune", "ipex", "stock"))]
    assert [call.arguments for call in project.calls("pip-audit")] == [[*options, name, "-s", "osv"] for name in lists]
    assert (project.project / ".venv/audited.txt").read_text() == "torch==2.13.0\nnumpy==2.4.6\n"


def test_ipex_gets_an_environment_of_its_own(project: Sandbox) -> None:
    for _ in range(2):
        assert make(project, "test-ipex", "IPEX_TESTS=tests/a", "PYTEST_ARGS=-k name").returncode == 0
    assert installs(project) == [["install", "--editable", ".[ipex,test]"]]
    assert [call.arguments for call in project.calls("pytest")] == [["tests/a", "-k", "name"]] * 2
    assert (project.project / ".venv-ipex/bin").is_dir() and not (project.project / ".venv").exists()
    assert make(project, "clean").returncode == 0
    assert not (project.project / ".venv-ipex").exists()


def test_ipex_takes_the_package_indexs_torch_where_there_is_none_for_cpus(project: Sandbox) -> None:
    """And says what that costs."""
    (project.project / "docker/install_torch.sh").write_text('#!/usr/bin/env bash\necho "asked for $2"\nexit 1\n')
    result = make(project, "test-ipex")
    assert result.returncode == 0
    assert "asked for 2.8.0\nmake: taking the package index's torch 2.8.0 instead: with CUDA" in result.stdout
    assert installs(project)[0] == ["install", "torch==2.8.0"]


@pytest.mark.parametrize("target", ["setup", "test", "demo", "bench"])
def test_kernels_are_built_when_the_package_is_installed(project: Sandbox, target: str) -> None:
    (project.project / "quickstart/demo.sh").write_text("#!/usr/bin/env bash\n")
    for _ in range(2):
        assert make(project, target, "CXX=g++").returncode == 0
    (call,) = [call for call in project.calls("bert-large") if call.arguments == ["kernels"]]
    assert call.environment["CXX"] == "g++"


def test_kernels_that_cannot_be_built_end_setup(project: Sandbox) -> None:
    project.fake("bert-large", "sys.exit('bert-large kernels: error: why')", directory=project.directory / "tools")
    result = make(project, "setup")
    assert result.returncode == 2
    assert "bert-large kernels: error: why" in result.stderr
    assert not (project.project / ".venv/.installed").exists()


def test_new_kernel_sources_are_built(project: Sandbox) -> None:
    source = project.project / "models/bert_large/engines/native/csrc/a.cpp"
    source.parent.mkdir(parents=True)
    source.touch()
    assert make(project, "setup").returncode == 0
    later = (project.project / ".venv/.installed").stat().st_mtime + 10
    os.utime(source, (later, later))
    assert make(project, "setup").returncode == 0
    assert len(project.calls("bert-large")) == 2


def test_a_compiler_that_is_not_there_is_named_first(project: Sandbox) -> None:
    (project.bin / "g++").unlink()
    result = make(project, "setup")
    assert result.returncode == 2
    assert "CXX=g++" in result.stderr.splitlines()[0]
    assert not (project.project / ".venv").exists()
    project.fake("clang++")
    assert make(project, "setup", "CXX=clang++").returncode == 0


def test_clean_removes_the_kernels(project: Sandbox) -> None:
    built = Path(project.folder("the project/models/bert_large/engines/native/built"))
    assert make(project, "clean").returncode == 0
    assert not built.exists() and built.parent.is_dir()


def test_lint_checks_every_script(project: Sandbox) -> None:
    for name in (".ci/run", "jobs/slurm/a b.sh", ".venv/not.sh", ".venv-ipex/not.sh", "output/not.sh", "docker/data"):
        path = project.project / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert make(project, "lint").returncode == 0
    assert [call.arguments for call in project.calls("ruff")] == [["check"], ["format", "--check"]]
    assert len(project.calls("mypy")) == 1
    assert project.calls("python")[-1].arguments == [".ci/english.py"]
    checked = {word for word in project.calls("shellcheck")[0].arguments if not word.startswith("--")}
    scripts = {f"./{path.relative_to(project.project)}" for path in project.project.glob("[dq]*/*.sh")}
    assert "./docker/install_torch.sh" in scripts
    assert checked == scripts | {"./run.sh", "./build.sh", "./.ci/run", "./jobs/slurm/a b.sh"}


def test_a_failure_is_a_failure(project: Sandbox) -> None:
    project.fake("pytest", "sys.exit(1)", directory=project.directory / "tools")
    assert make(project, "test").returncode == 2


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("sys.exit('version_info' in sys.argv[-1])", "3.10 or newer is needed"),
        ("sys.exit('ensurepip' in sys.argv[-1])", "has no venv"),
    ],
)
def test_a_python_that_will_not_do(project: Sandbox, body: str, error: str) -> None:
    project.fake("old-python", body)
    result = make(project, "setup", "PYTHON=old-python")
    assert result.returncode == 2
    assert error in result.stderr.splitlines()[0]
    assert not (project.project / ".venv").exists()


def test_a_python_that_is_not_there(project: Sandbox) -> None:
    result = make(project, "setup", "PYTHON=no-python")
    assert result.returncode == 2
    assert "PYTHON=no-python" in result.stderr.splitlines()[0]


def test_help_lists_the_targets(project: Sandbox) -> None:
    listed = {line.split()[1] for line in make(project).stdout.splitlines()}
    assert {"setup", "demo", "test", "test-ipex", "fault", "soak", "fuzz", "audit", "bench", "lint"} <= listed
