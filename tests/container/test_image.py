"""The contents of the training images."""

from __future__ import annotations

import json
import re
import subprocess
from typing import Any

import pytest
from bert_large import __version__

from .engine import IPEX, PROJECT, SECRET, STOCK, Engine, Image, rebuild


@pytest.fixture(scope="module")
def inspected(engine: Engine, image: Image) -> dict[str, Any]:
    """The engine's description of the image."""
    return inspect(engine, image.name)


def inspect(engine: Engine, name: str) -> dict[str, Any]:
    """Return the engine's description of an image."""
    return json.loads(engine.docker("image", "inspect", name).stdout)[0]


def inside(engine: Engine, name: str, *command: str, user: str | None = None) -> str:
    """Run a command in a new container and return its output."""
    as_user = ["--user", user] if user else []
    return engine.docker("run", "--rm", *as_user, name, *command).stdout.strip()


def python(engine: Engine, name: str, code: str, user: str | None = None) -> str:
    """Run Python code in a new container and return its output."""
    return inside(engine, name, "python3", "-c", code, user=user)


def test_labels(image: Image, inspected: dict[str, Any]) -> None:
    labels = {
        name.removeprefix("org.opencontainers.image."): value for name, value in inspected["Config"]["Labels"].items()
    }
    labels.pop("revision", None)  # present only in a checkout
    base = f"torch {image.torch_version}"
    if image is IPEX:
        base += ", IPEX 2.7.0, without oneCCL (ONECCL_INDEX_URL was not given)"
    assert labels == {
        "title": "BERT-large training",
        "description": "BERT pretraining on CPUs",
        "licenses": "Apache-2.0",
        "version": __version__,
        "base.name": image.base_name,
        "bert-large.base": base,
    }


def test_an_unchanged_image_keeps_its_id(engine: Engine, image: Image, inspected: dict[str, Any]) -> None:
    rebuild(engine, image)
    assert inspect(engine, image.name)["Id"] == inspected["Id"]


def test_the_default_user_is_not_root(engine: Engine, image: Image, inspected: dict[str, Any]) -> None:
    assert inspected["Config"]["User"] == "1000:1000"
    assert inside(engine, image.name, "id", "-u") == "1000"


def test_no_setting_of_the_build_stays(inspected: dict[str, Any]) -> None:
    names = {entry.split("=", 1)[0] for entry in inspected["Config"]["Env"]}
    assert names == {"PATH", "HOME", "LOGNAME", "BERT_LARGE_KERNELS_DIR"}


def test_no_secret_of_the_build_is_in_a_layer(engine: Engine, image: Image, inspected: dict[str, Any]) -> None:
    assert SECRET not in json.dumps(inspected)
    assert SECRET not in engine.docker("history", "--no-trunc", image.name).stdout
    if image is STOCK:  # the other has gigabytes of libraries, and is built by the same script
        saved = f"docker save {image.name} | grep --quiet --text --fixed-strings {SECRET}"
        assert subprocess.run(["sh", "-c", saved], env=engine.environment, check=False).returncode == 1


@pytest.mark.parametrize("user", ["1000:1000", "54321:54321", "0:0"])
def test_any_user_can_run_the_package(engine: Engine, image: Image, user: str) -> None:
    assert inside(engine, image.name, "bert-large", "--version", user=user) == f"bert-large {__version__}"
    code = (
        "import getpass, pathlib, bert_large.cli, torch; getpass.getuser(); "
        "(pathlib.Path.home() / 'a').touch(); print(torch.ones(2).sum().item())"
    )
    assert python(engine, image.name, code, user=user) == "2.0"


def test_the_base_s_torch_is_kept(engine: Engine, image: Image) -> None:
    code = "import torch; print(torch.__version__.split('+')[0], torch.__file__, torch.version.cuda)"
    found = python(engine, image.name, code)
    assert found == python(engine, image.base_name, code)
    version, path, cuda = found.split()
    assert version == image.torch_version
    assert path.startswith("/opt/venv/")
    assert cuda == "None" or image is IPEX


def test_the_packages_are_the_locked_ones(engine: Engine, image: Image) -> None:
    check_packages(engine, image, locked(image.base))


def test_fine_tuning_adds_its_locked_packages(engine: Engine, finetune_image: Image) -> None:
    check_packages(engine, finetune_image, locked(finetune_image.base) | locked("finetune"))


def locked(name: str) -> dict[str, str]:
    """Return the packages and versions of a lock."""
    lock = (PROJECT / f"docker/requirements-{name}.txt").read_text()
    return dict(re.findall(r"^(\S+)==(\S+)", lock, re.MULTILINE))


def check_packages(engine: Engine, image: Image, expected: dict[str, str]) -> None:
    """Fail if the image has other packages than these and PyTorch, or if a requirement is missing."""
    code = "import importlib.metadata as m, json; print(json.dumps([[d.name, d.version] for d in m.distributions()]))"
    found = {
        re.sub("[-_.]+", "-", name).lower(): version for name, version in json.loads(python(engine, image.name, code))
    }
    assert {name: found.get(name) for name in expected} == expected
    added = found.keys() - expected.keys() - {"bert-large", "torch", "pip", "setuptools"}
    if image.base == "ipex":  # its torch may be a build for GPUs here
        added -= {name for name in added if name.startswith("nvidia-")}
        added -= {"triton", "intel-extension-for-pytorch"}
    assert added == set()
    broken = engine.docker("run", "--rm", image.name, "python3", "-m", "pip", "check", check=False).stdout.splitlines()
    unused = re.compile(
        r"(mlperf-logging \S+ requires (pandas|scipy)|torch \S+ requires networkx), which is not installed\."
    )
    assert [line for line in broken if not unused.fullmatch(line)] in ([], ["No broken requirements found."])
    assert (
        python(engine, image.name, "from mlperf_logging import mllog; print(mllog.get_mllogger() is not None)")
        == "True"
    )


def test_ipex_is_in_its_image(engine: Engine, image: Image) -> None:
    code = "import importlib.util as u; print(*(u.find_spec(n) is not None for n in {!r}.split()))".format(
        "intel_extension_for_pytorch oneccl_bindings_for_pytorch"
    )
    assert python(engine, image.name, code) == f"{image is IPEX} False"


def test_the_allocators_are_there(engine: Engine, image: Image) -> None:
    libraries = inside(engine, image.name, "/sbin/ldconfig", "-p")
    assert "libtcmalloc_minimal.so.4 " in libraries
    assert "libjemalloc.so.2 " in libraries


def test_the_image_is_the_base_and_more(engine: Engine, image: Image, inspected: dict[str, Any]) -> None:
    base = inspect(engine, image.base_name)["RootFS"]["Layers"]
    assert inspected["RootFS"]["Layers"][: len(base)] == base


def test_there_is_no_compiler(engine: Engine, image: Image) -> None:
    look = "for tool in gcc g++ cc c++ clang ld make; do command -v $tool; done; command -v python3"
    assert inside(engine, image.name, "sh", "-c", look) == "/opt/venv/bin/python3"


def test_the_kernels_are_those_of_every_instruction_set(engine: Engine, image: Image) -> None:
    code = (
        "from bert_large.engines.native.build import INSTRUCTION_SETS, kernels; "
        "print(*sorted(kernels(name).prefix for name in INSTRUCTION_SETS))"
    )
    found = inside(engine, image.name, "ls", "/workspace/bert-large/kernels").split()
    assert [name.rpartition("-")[0] for name in found] == python(engine, image.name, code).split()


def test_any_user_has_the_native_engine_on_a_read_only_root(engine: Engine, image: Image) -> None:
    code = "from bert_large.engines import resolve_engine; print(resolve_engine('auto')[1])"
    options = ("--rm", "--read-only", "--user", "54321:54321")
    result = engine.docker("run", *options, image.name, "python3", "-c", code)
    assert result.stdout.startswith("engine native: C++ kernels")


def test_nothing_is_left_of_the_build(engine: Engine, image: Image) -> None:
    folders = ("/tmp", "/root", "/workspace/bert-large", "/var/lib/apt/lists", "/var/cache/apt")
    look = f"find {' '.join(folders)} -mindepth 1 -maxdepth 1 -not -name .bashrc -not -name .profile"
    found = inside(engine, image.name, "sh", "-c", look, user="0:0")
    kept = ("entrypoint.sh", "healthcheck.sh", "kernels", "licenses", "quickstart")
    assert sorted(found.split()) == [f"/workspace/bert-large/{name}" for name in kept]


def test_packages_have_neither_tests_nor_symbol_tables(engine: Engine, image: Image) -> None:
    code = (
        "import pathlib, torch; site = pathlib.Path(torch.__file__).parents[1]; "
        "print(any(p.is_dir() for p in site.rglob('tests')), (site / 'networkx').exists(), "
        "b'.symtab' in (site / 'torch/lib/libtorch_cpu.so').read_bytes()[-100_000:])"
    )
    has_networkx = "ipex" in image.name  # IPEX imports PyTorch's compiler, which needs it
    assert python(engine, image.name, code) == f"False {has_networkx} False"


def test_torch_has_neither_tests_nor_headers(engine: Engine, image: Image) -> None:
    code = "import pathlib, torch; print(*sorted(p.name for p in pathlib.Path(torch.__file__).parent.iterdir()))"
    found = set(python(engine, image.name, code).split())
    assert "include.tar.gz" in found and not found & {"include", "test"}


def test_licenses_are_in_the_image(engine: Engine, image: Image) -> None:
    text = inside(engine, image.name, "cat", "/workspace/bert-large/licenses/LICENSE")
    assert text == (PROJECT / "licenses/LICENSE").read_text().strip()


def test_the_entry_point_takes_options_commands_and_programs(engine: Engine, image: Image) -> None:
    assert inside(engine, image.name).startswith("usage: bert-large")
    assert inside(engine, image.name, "--help") == inside(engine, image.name)
    assert inside(engine, image.name, "--version") == f"bert-large {__version__}"
    assert "mlperf-3072" in inside(engine, image.name, "recipes")
    assert inside(engine, image.name, "echo", "a  b", "--help") == "a  b --help"
    wrong = engine.docker("run", "--rm", image.name, "no-such-command", check=False)
    assert wrong.returncode == 2 and "no-such-command" in wrong.stderr


def test_doctor_finds_no_problem(engine: Engine, image: Image) -> None:
    """Without mounts, as any user."""
    options = ("--rm", "--read-only", "--tmpfs", "/tmp", "--user", "54321:54321")
    result = engine.docker("run", *options, image.name, "doctor", "--config-file", "bert-tiny", "--json")
    findings = {entry["topic"]: entry for entry in map(json.loads, result.stdout.splitlines())}
    assert findings["native kernels"]["level"] == findings["packages"]["level"] == "ok"
    assert "output folder" not in findings
