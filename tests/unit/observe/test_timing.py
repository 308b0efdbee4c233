"""Alternating rounds: the order of calls, the timed part, and the output."""

from __future__ import annotations

import pytest
from bert_large.observe import timing
from bert_large.observe.timing import Timing, Variant, alternate


class Clock:
    """A clock that only `advance` moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(timing.time, "perf_counter", lambda: self.now)

    def advance(self, seconds: float) -> None:
        self.now += seconds


def test_rounds_alternate_and_preparation_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, calls = Clock(monkeypatch), []

    def variant(name: str, seconds: float) -> Variant:
        def run(round_: int) -> None:
            calls.append(f"{name}{round_}")
            clock.advance(seconds * (round_ + 1))

        return Variant(run, lambda round_: clock.advance(100.0))

    timings = alternate({"a": variant("a", 1.0), "b": variant("b", 10.0)}, rounds=2, warmups=1)
    assert calls == ["a0", "b0", "b1", "a1", "a2", "b2"]
    assert {name: timing.seconds for name, timing in timings.items()} == {"a": [2.0, 3.0], "b": [20.0, 30.0]}


def test_output_of_a_timing() -> None:
    assert Timing([4.0, 1.0, 2.0]).as_dict(0.5) == {"minimum": 0.5, "median": 1.0, "rounds": [2.0, 0.5, 1.0]}
