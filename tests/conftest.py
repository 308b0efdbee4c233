"""Settings and fixtures for all tests."""

from __future__ import annotations

import signal
import sys
from typing import Any

import pytest

# Files of one group run in one process of `--dist loadfile`, as a session's fixtures exist once per process: there must
# be one container engine only, and the demo takes minutes.
GROUPS = ("tests/container/", "tests/integration/test_demo")

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # `nohup` ignores it, and every process that a test starts would


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Compute with one thread: tiny models gain nothing from more, and sums are in the same order on every machine."""
    torch = sys.modules.get("torch")  # tests that do not import it need not wait for it
    if torch is not None:
        torch.set_num_threads(1)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Return pytest-xdist's scheduler of `--dist loadfile` with the groups above."""
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class LoadGroups(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return next((group for group in GROUPS if nodeid.startswith(group)), super()._split_scope(nodeid))

    return LoadGroups(config, log)
