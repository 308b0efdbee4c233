"""What holds for all tests."""

from __future__ import annotations

import sys

import pytest


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Compute with one thread: tiny models gain nothing from more, and sums are in the same order everywhere."""
    torch = sys.modules.get("torch")  # tests that do without it need not wait for it
    if torch is not None:
        torch.set_num_threads(1)
