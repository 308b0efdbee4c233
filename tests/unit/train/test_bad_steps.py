"""Counts of skipped steps, and the running mean of the loss."""

from __future__ import annotations

import pytest
from bert_large.train import bad_steps
from bert_large.train.bad_steps import LossTrend, SkippedSteps


def test_skipped_steps_are_counted() -> None:
    outcomes, counts = [False, False, True, False, True, True], SkippedSteps()
    found = []
    for is_good in outcomes:
        counts = counts.after_update() if is_good else counts.after_skip()
        found.append((counts.total, counts.in_a_row))
    assert found == [(1, 1), (2, 2), (2, 0), (3, 1), (3, 0), (3, 0)]


def trends_of(losses: list[float]) -> list[LossTrend]:
    trends = [LossTrend()]
    for loss in losses:
        trends.append(trends[-1].after(loss))
    return trends[1:]


def test_the_mean_is_exponential_after_the_first_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over 4 steps: plain means of 8; 8, 6; and so on, then a quarter of the way to each loss."""
    monkeypatch.setattr(bad_steps, "TREND_STEPS", 4)
    trends = trends_of([8.0, 6.0, 4.0, 2.0, 1.0, 9.0])
    assert [trend.mean for trend in trends] == [8.0, 7.0, 6.0, 5.0, 4.0, 5.25]
    assert [trend.lowest for trend in trends] == [None, None, None, 5.0, 4.0, 4.0]
    assert [trend.rise for trend in trends] == [0.0, 0.0, 0.0, 0.0, 0.0, 1.25]


def test_only_a_divergence_is_a_rise() -> None:
    """A noisy but falling loss never rises by 0.2; one that jumps from 2 to 9 nats rises by 1 within 20 steps."""
    falling = [10 - 8 * step / 1000 + (0.5 if step % 2 else -0.5) for step in range(1000)]
    assert max(trend.rise for trend in trends_of(falling)) < 0.2
    trends = trends_of([*falling, *[9.0] * 20])
    assert [trend.rise > 1 for trend in trends].index(True) in range(1005, 1020)
