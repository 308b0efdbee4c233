"""Settings and fixtures for all tests."""

from __future__ import annotations

import sys
from collections.abc import Generator

import pytest


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Compute with one thread: tiny models gain nothing from more, and sums are in the same order on every machine."""
    torch = sys.modules.get("torch")  # tests that do not import it need not wait for it
    if torch is not None:
        torch.set_num_threads(1)


@pytest.hookimpl(wrapper=True)  # so that it runs before xdist's own hook, which reads the groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Generator[None, None, None]:
    """Group tests for `--dist loadgroup`: by file, but all container tests and all users of the demo in one process.

    A session's fixtures exist once per process. There must be one container engine only, and the demo takes minutes.
    """
    demo_files = {item.path for item in items if "demo" in getattr(item, "fixturenames", ())}
    for item in items:
        if "container" in item.path.parts:
            group = "container"
        else:
            group = "demo" if item.path in demo_files else str(item.path.relative_to(config.rootpath))
        item.add_marker(pytest.mark.xdist_group(group))
    return (yield)
