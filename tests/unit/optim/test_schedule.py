"""The learning-rate schedule, by the reference's formula."""

from __future__ import annotations

import pytest
from bert_large.config.training import OptimConfig
from bert_large.optim.schedule import Schedule


def rates(schedule: Schedule, *steps: int) -> list[float]:
    return [schedule.rate(step) for step in steps]


def test_decay_alone() -> None:
    schedule = Schedule(OptimConfig(learning_rate=2.0, total_steps=10))
    assert rates(schedule, 0, 1, 5, 9) == pytest.approx([2.0, 1.8, 1.0, 0.2])


def test_zero_at_the_end_and_beyond() -> None:
    """Neither negative nor, with a power of a half, complex."""
    for power in (1.0, 0.5):
        schedule = Schedule(OptimConfig(learning_rate=2.0, total_steps=10, decay_power=power))
        assert rates(schedule, 10, 11, 1000) == [0.0, 0.0, 0.0]


def test_warmup_does_not_shift_the_decay() -> None:
    """It starts at 0, and after it the rate is that of decay alone."""
    schedule = Schedule(OptimConfig(learning_rate=2.0, total_steps=10, warmup_steps=4))
    assert rates(schedule, 0, 1, 3, 4, 5) == pytest.approx([0.0, 0.5, 1.5, 1.2, 1.0])


def test_warmup_that_started_before_the_run() -> None:
    """MLCommons' recipe for a batch of 8192: 600 steps, of which steps -76 to 210 are warmup."""
    schedule = Schedule(OptimConfig(learning_rate=2.88293e-3, total_steps=600, warmup_steps=287, start_warmup_step=-76))
    assert schedule.rate(0) == pytest.approx(2.88293e-3 * 76 / 287)
    assert schedule.rate(210) == pytest.approx(2.88293e-3 * 286 / 287)
    assert schedule.rate(211) == pytest.approx(2.88293e-3 * (1 - 211 / 600))


def test_power() -> None:
    """NVIDIA's recipe decays with the square root."""
    schedule = Schedule(OptimConfig(learning_rate=6e-3, total_steps=100, decay_power=0.5))
    assert rates(schedule, 0, 19, 75) == pytest.approx([6e-3, 6e-3 * 0.9, 6e-3 * 0.5])
