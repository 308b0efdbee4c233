"""Fixtures of the container tests: an engine, the images, and a caller of run.sh."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn

import pytest

from .caller import Caller
from .engine import (
    IPEX,
    IPEX_FINETUNE,
    STOCK,
    STOCK_FINETUNE,
    BuildError,
    Engine,
    EngineError,
    Image,
    build_image,
    missing_requirements,
    package_settings,
    running_engine,
)

BUILD_TIMEOUT_SECONDS = 2400  # the first test waits for Debian's packages, PyTorch and the builds


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this folder as slow, and allow each the time that building the images takes in the first."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.container)
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.timeout(BUILD_TIMEOUT_SECONDS))


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A new folder that every user can access, unlike pytest's."""
    with tempfile.TemporaryDirectory(prefix="bert large ") as folder:
        path = Path(folder)
        path.chmod(0o755)
        yield path


def cannot_test(reason: str) -> NoReturn:
    """Skip the test, or fail it with REQUIRE_CONTAINER=1."""
    if os.environ.get("REQUIRE_CONTAINER") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="package")
def engine() -> Iterator[Engine]:
    """A running engine. If none can run, tests are skipped, or fail with REQUIRE_CONTAINER=1."""
    missing = missing_requirements()
    if missing:
        cannot_test(f"no container engine can be started here without {', '.join(missing)}")
    folder = Path(tempfile.mkdtemp(prefix="engine-"))
    folder.chmod(0o755)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        try:
            settings = stack.enter_context(package_settings())
            engine = stack.enter_context(running_engine(folder, settings))
        except EngineError as error:
            cannot_test(str(error))
        yield engine


@pytest.fixture(scope="package", params=[STOCK, IPEX], ids=lambda image: image.base)
def image(engine: Engine, request: pytest.FixtureRequest) -> Image:
    """Each of the images, built."""
    return built(engine, request.param)


@pytest.fixture(scope="package", params=[(STOCK, STOCK_FINETUNE), (IPEX, IPEX_FINETUNE)], ids=["stock", "ipex"])
def finetune_image(engine: Engine, request: pytest.FixtureRequest) -> Image:
    """Each image with the packages for fine-tuning; built second, because it shares most layers with the other."""
    image, finetune_image = request.param
    built(engine, image)
    return built(engine, finetune_image)


def built(engine: Engine, image: Image) -> Image:
    """Build an image and return it. If that fails, tests are skipped, or fail with REQUIRE_CONTAINER=1."""
    try:
        return build_image(engine, image)
    except BuildError as error:
        cannot_test(str(error))


@pytest.fixture
def caller(engine: Engine, public_folder: Path) -> Caller:
    """An ordinary user with a folder and a copy of the project, ready to run the stock image."""
    build_image(engine, STOCK)
    return Caller(engine, public_folder, uid=1234)
