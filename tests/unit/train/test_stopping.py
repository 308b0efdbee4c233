"""Stopping on request."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest
from bert_large.distributed.collectives import Ranks
from bert_large.train.stopping import StopRequest, received_signal


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def exits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the exit codes with which the process would have ended."""
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    return codes


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_is_recorded_and_a_later_one_ends_the_process(
    number: signal.Signals, exits: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal a moment later is the same request: schedulers signal all processes, and torchrun forwards it."""
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
    """There is nothing to save. Process 1 of a container needs a handler for that, as it ignores other signals."""
    request = StopRequest()
    request.listen()
    os.kill(os.getpid(), signal.SIGTERM)
    assert (request.signal_number, exits) == (0, [143])


def test_a_step_that_would_miss_the_deadline_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """The deadline is 60 seconds, and the remaining time of the step is estimated from its finished part."""
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    request = StopRequest()
    request.listen()
    request.defer(60)
    assert not request.drops_step(1000.0, 0.001)  # no stop is requested
    os.kill(os.getpid(), signal.SIGTERM)
    assert not request.drops_step(30.0, 0.5)  # 30 seconds remain
    assert request.drops_step(61.0, 0.5)  # 61 seconds remain
    assert not request.drops_step(0.1, 0.0)  # no estimate yet
    now += 31
    assert request.drops_step(30.0, 0.5)
    now += 29
    assert request.drops_step(0.1, 0.0)


class OtherRanks(Ranks):
    """Ranks of which the others have the given values."""

    def __init__(self, *others: int) -> None:
        super().__init__()
        self._others = others

    def any(self, flag: bool) -> bool:
        return flag or any(self._others)

    def gather(self, value: Any) -> list[Any]:
        return [value, *self._others]


@pytest.mark.parametrize(("own", "others", "known"), [(0, (0, 0), 0), (0, (15, 0), 15), (15, (2, 0), 15)])
def test_ranks_agree_on_a_signal(own: int, others: tuple[int, ...], known: int) -> None:
    request = StopRequest()
    request.signal_number = own
    assert received_signal(request, OtherRanks(*others)) == known
    assert request.signal_number == own


def test_nohup_is_respected() -> None:
    """A process that ignores SIGHUP when it starts was started by `nohup`."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    StopRequest().listen()
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
