"""What is in the training image, and what is not."""

from __future__ import annotations

import json
from typing import Any

import pytest
from bert_large import __version__

from .engine import IMAGE, PROJECT, STOCK_IMAGE, Engine


@pytest.fixture(scope="module")
def inspected(engine: Engine) -> dict[str, Any]:
    """What the engine knows of the image."""
    return json.loads(engine.docker("image", "inspect", IMAGE).stdout)[0]


def inside(engine: Engine, *command: str, image: str = IMAGE, user: str | None = None) -> str:
    """Run a command in a new container and return what it printed."""
    as_user = ["--user", user] if user else []
    return engine.docker("run", "--rm", *as_user, image, *command).stdout.strip()


def python(engine: Engine, code: str, image: str = IMAGE, user: str | None = None) -> str:
    """Run Python code in a new container and return what it printed."""
    return inside(engine, "python3", "-c", code, image=image, user=user)


def test_labels(inspected: dict[str, Any]) -> None:
    labels = inspected["Config"]["Labels"]
    assert labels["org.opencontainers.image.title"] == "BERT-large training"
    assert labels["org.opencontainers.image.version"] == __version__
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert labels["org.opencontainers.image.base.name"] == STOCK_IMAGE


def test_the_default_user_is_not_root(engine: Engine, inspected: dict[str, Any]) -> None:
    assert inspected["Config"]["User"] == "1000:1000"
    assert inside(engine, "id", "-u") == "1000"


def test_no_setting_of_the_build_stays(inspected: dict[str, Any]) -> None:
    names = {entry.split("=", 1)[0] for entry in inspected["Config"]["Env"]}
    assert names == {"PATH", "HOME", "LOGNAME", "BERT_LARGE_KERNELS_DIR"}


@pytest.mark.parametrize("user", ["1000:1000", "54321:54321", "0:0"])
def test_any_user_can_run_the_package(engine: Engine, user: str) -> None:
    assert inside(engine, "bert-large", "--version", user=user) == f"bert-large {__version__}"
    code = (
        "import getpass, pathlib, bert_large.cli, torch; getpass.getuser(); "
        "(pathlib.Path.home() / 'a').touch(); print(torch.ones(2).sum().item())"
    )
    assert python(engine, code, user=user) == "2.0"


def test_the_base_s_torch_is_kept_and_is_for_cpus(engine: Engine) -> None:
    code = "import torch; print(torch.__version__, torch.version.cuda, torch.__file__)"
    found = python(engine, code)
    assert found == python(engine, code, image=STOCK_IMAGE)
    version, cuda, path = found.split()
    assert version.startswith("2.13.0")
    assert cuda == "None"
    assert path.startswith("/opt/venv/")
    names = python(engine, "import importlib.metadata as m; print(*(d.name for d in m.distributions()))").split()
    assert "bert-large" in names
    assert not [name for name in names if name.startswith(("nvidia", "triton", "cuda", "uv"))]


def test_the_image_is_the_base_and_more(engine: Engine, inspected: dict[str, Any]) -> None:
    base = json.loads(engine.docker("image", "inspect", STOCK_IMAGE).stdout)[0]["RootFS"]["Layers"]
    assert inspected["RootFS"]["Layers"][: len(base)] == base


@pytest.mark.parametrize("tool", ["gcc", "g++", "cc", "c++", "clang", "ld", "make"])
def test_there_is_no_compiler(engine: Engine, tool: str) -> None:
    assert inside(engine, "sh", "-c", f"command -v {tool} || echo none") == "none"


def test_the_kernels_are_those_of_every_instruction_set(engine: Engine) -> None:
    code = (
        "from bert_large.engines.native.build import INSTRUCTION_SETS, library_name; "
        "print(*sorted(map(library_name, INSTRUCTION_SETS)))"
    )
    assert inside(engine, "ls", "/workspace/bert-large/kernels").split() == python(engine, code).split()


def test_any_user_has_the_native_engine_on_a_read_only_root(engine: Engine) -> None:
    code = "from bert_large.engines import resolve_engine; print(resolve_engine('auto')[1])"
    options = ("--rm", "--read-only", "--user", "54321:54321")
    assert engine.docker("run", *options, IMAGE, "python3", "-c", code).stdout.startswith("engine native: C++ kernels")


def test_nothing_is_left_of_the_build(engine: Engine) -> None:
    found = inside(engine, "find", "/tmp", "/root", "/workspace/bert-large", "-mindepth", "1", "-maxdepth", "1",
                   "-not", "-name", ".bashrc", "-not", "-name", ".profile", user="0:0")  # fmt: skip
    assert sorted(found.split()) == [f"/workspace/bert-large/{name}" for name in ("kernels", "licenses", "quickstart")]


def test_licenses_are_in_the_image(engine: Engine) -> None:
    text = inside(engine, "cat", "/workspace/bert-large/licenses/LICENSE")
    assert text == (PROJECT / "licenses/LICENSE").read_text().strip()


def test_the_command_is_the_package_s_help(engine: Engine) -> None:
    assert inside(engine).startswith("usage: bert-large")
