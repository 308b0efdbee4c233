"""Alternating rounds: the order of calls, the timed part, and the output."""

from __future__ import annotations

import pytest
from bert_large.observe import timing
from bert_large.observe.timing import Timing, Variant, alternate, format_spread, is_steady, spread


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
    assert Timing([4.0, 1.0, 2.0]).as_dict(0.5) == {"median": 1.0, "rounds": [2.0, 0.5, 1.0]}


def test_ratios_are_taken_round_by_round() -> None:
    """A neighbor that triples the time of one round changes neither ratio nor order."""
    ours, theirs = Timing([1.0, 3.0, 1.1]), Timing([2.0, 6.0, 2.2])
    assert theirs.over(ours) == pytest.approx([2.0, 2.0, 2.0])
    assert ours.rates(6.0) == pytest.approx([6.0, 2.0, 6.0 / 1.1])


@pytest.mark.parametrize(
    ("values", "median", "quartiles", "steady"),
    [
        ([2.0], 2.0, [2.0, 2.0], True),
        ([1.0, 2.0, 3.0, 4.0, 5.0], 3.0, [2.0, 4.0], False),
        ([100.0, 101.0, 99.0], 100.0, [99.5, 100.5], True),
    ],
)
def test_spread(values: list[float], median: float, quartiles: list[float], steady: bool) -> None:
    result = spread(values)
    assert result == {"median": median, "quartiles": quartiles}
    assert is_steady(result) == steady
    assert (f"{median:.4g} (" in format_spread(result, "s")) == steady


def test_an_unsteady_value_has_no_median_in_the_text() -> None:
    assert format_spread({"median": 0.91, "quartiles": [0.67, 1.24]}, "%", 0.01) == "unsteady, 67 to 124 %"
