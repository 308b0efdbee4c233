"""Stopping on request."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from bert_large.train.stopping import StopRequest


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_remembered_once(number: signal.Signals) -> None:
    """The first asks; after it both have their usual effect, so that a second one ends the process."""
    request = StopRequest()
    request.install()
    assert request.signal_number == 0
    os.kill(os.getpid(), number)
    assert request.signal_number == number
    assert signal.getsignal(signal.SIGTERM) == signal.getsignal(signal.SIGINT) == signal.SIG_DFL
