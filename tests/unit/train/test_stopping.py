"""Stopping on request."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest
from bert_large.train.stopping import StopRequest


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def exits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the exit codes with which the process would have ended."""
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    return codes


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_remembered_and_a_later_one_ends_the_process(
    number: signal.Signals, exits: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same signal a moment later is the same request: schedulers signal all processes, and torchrun hands on."""
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    request = StopRequest()
    request.listen()
    request.defer(60)
    assert request.signal_number == 0
    os.kill(os.getpid(), number)
    assert request.signal_number == number
    now += 2
    os.kill(os.getpid(), signal.SIGTERM)
    assert (request.signal_number, exits) == (number, [])
    now += 2
    os.kill(os.getpid(), signal.SIGINT)
    assert exits == [130]


def test_before_training_a_signal_ends_the_process(exits: list[int]) -> None:
    """There is nothing to save; a handler does it, as process 1 of a container has no default that would."""
    request = StopRequest()
    request.listen()
    os.kill(os.getpid(), signal.SIGTERM)
    assert (request.signal_number, exits) == (0, [143])


def test_a_step_that_would_end_too_late_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A deadline of 60 seconds: what is left of the step is judged by what is done of it."""
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    request = StopRequest()
    request.listen()
    request.defer(60)
    assert not request.drops_step(1000.0, 0.001)  # nobody asked
    os.kill(os.getpid(), signal.SIGTERM)
    assert not request.drops_step(30.0, 0.5)  # 30 seconds left of it
    assert request.drops_step(61.0, 0.5)  # 61 seconds
    assert not request.drops_step(0.1, 0.0)  # not known yet
    now += 31
    assert request.drops_step(30.0, 0.5)
    now += 29
    assert request.drops_step(0.1, 0.0)
