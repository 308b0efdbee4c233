"""Learning-rate schedules, by the reference's formula, and by those of `transformers` and PyTorch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from bert_large.config.training import OptimConfig
from bert_large.optim.build import build_schedule
from bert_large.optim.schedule import PolynomialSchedule, Schedule


def rates(schedule: Schedule, *steps: int) -> list[float]:
    return [schedule.rate(step) for step in steps]


def built(**settings: Any) -> Schedule:
    return build_schedule(OptimConfig(learning_rate=0.5, **settings))


def test_decay_alone() -> None:
    schedule = PolynomialSchedule(learning_rate=2.0, total_steps=10)
    assert rates(schedule, 0, 1, 5, 9) == pytest.approx([2.0, 1.8, 1.0, 0.2])


def test_zero_at_the_end_and_beyond() -> None:
    """Neither negative nor, with a power of a half, complex."""
    for power in (1.0, 0.5):
        schedule = PolynomialSchedule(learning_rate=2.0, total_steps=10, decay_power=power)
        assert rates(schedule, 10, 11, 1000) == [0.0, 0.0, 0.0]


def test_warmup_does_not_shift_the_decay() -> None:
    """It starts at 0, and after it the rate is that of decay alone."""
    schedule = PolynomialSchedule(learning_rate=2.0, total_steps=10, warmup_steps=4)
    assert rates(schedule, 0, 1, 3, 4, 5) == pytest.approx([0.0, 0.5, 1.5, 1.2, 1.0])


def test_warmup_that_started_before_the_run() -> None:
    """MLCommons' recipe for a batch of 8192: 600 steps, of which steps -76 to 210 are warmup."""
    schedule = PolynomialSchedule(learning_rate=2.88293e-3, total_steps=600, warmup_steps=287, start_warmup_step=-76)
    assert schedule.rate(0) == pytest.approx(2.88293e-3 * 76 / 287)
    assert schedule.rate(210) == pytest.approx(2.88293e-3 * 286 / 287)
    assert schedule.rate(211) == pytest.approx(2.88293e-3 * (1 - 211 / 600))


def test_power() -> None:
    """NVIDIA's recipe decays with the square root."""
    schedule = PolynomialSchedule(learning_rate=6e-3, total_steps=100, decay_power=0.5)
    assert rates(schedule, 0, 19, 75) == pytest.approx([6e-3, 6e-3 * 0.9, 6e-3 * 0.5])


def rates_of_transformers(make: Any, steps: int, **options: Any) -> list[float]:
    """Return the rates of a peak of 0.5 that a function of `transformers` sets."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    scheduler = make(optimizer, **options)
    found = []
    for _ in range(steps):
        found.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize(("total", "warmup"), [(20, 0), (20, 7), (1, 0), (13, 12)])
@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_decays_of_transformers(name: str, total: int, warmup: int) -> None:
    make = getattr(transformers, f"get_{name}_schedule_with_warmup")
    expected = rates_of_transformers(make, total + 1, num_warmup_steps=warmup, num_training_steps=total)
    schedule = built(schedule=name, total_steps=total, warmup_steps=warmup)
    assert rates(schedule, *range(total + 1)) == pytest.approx(expected, abs=1e-12)
    assert rates(schedule, total + 1, total + 50) == [0.0, 0.0]


@pytest.mark.parametrize(("total", "warmup", "fraction"), [(20, 0, 0.2), (20, 5, 0.5), (20, 12, 0.4), (30, 3, 1 / 3)])
def test_warmup_stable_decay(total: int, warmup: int, fraction: float) -> None:
    """The shape of `get_wsd_schedule` with its decay `1-sqrt`."""
    decay = round(fraction * total)
    expected = rates_of_transformers(
        transformers.get_wsd_schedule, total, num_warmup_steps=warmup, num_decay_steps=decay,
        num_training_steps=total, decay_type="1-sqrt",
    )  # fmt: skip
    schedule = built(schedule="wsd", total_steps=total, warmup_steps=warmup, decay_fraction=fraction)
    assert rates(schedule, *range(total)) == pytest.approx(expected, abs=1e-12)
    assert schedule.rate(total) == 0.0


def test_a_decay_that_would_begin_in_the_warmup_begins_after_it() -> None:
    schedule = built(schedule="wsd", total_steps=10, warmup_steps=6, decay_fraction=0.9)
    assert rates(schedule, 3, 6, 7, 10) == pytest.approx([0.25, 0.5, 0.5 * (1 - 0.5), 0.0])


@pytest.mark.parametrize("name", ["linear", "cosine", "wsd"])
def test_warmup_that_started_before_a_run_of_any_schedule(name: str) -> None:
    schedule = built(schedule=name, total_steps=20, warmup_steps=8, start_warmup_step=-2)
    assert rates(schedule, 0, 3, 6) == pytest.approx([0.5 * 2 / 8, 0.5 * 5 / 8, 0.5])


@pytest.mark.parametrize(("total", "peak"), [(20, 5), (101, 70), (10, 1)])
def test_one_cycle_of_pytorch(total: int, peak: int) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=0.5, total_steps=total, pct_start=(peak + 1) / total
    )
    expected = []
    for step in range(total):
        expected.append(scheduler.get_last_lr()[0])
        if step < total - 1:
            optimizer.step()
            scheduler.step()
    schedule = built(schedule="one-cycle", total_steps=total, warmup_steps=peak)
    assert rates(schedule, *range(total)) == pytest.approx(expected, rel=1e-9)
    assert schedule.rate(total + 5) == pytest.approx(expected[-1])


def test_a_schedule_of_time() -> None:
    """The step does not matter: half of the time is half of the steps of the schedule."""
    share = iter([0.0, 0.05, 0.5, 1.0])
    config = OptimConfig(learning_rate=0.5, schedule="linear", total_steps=1000, warmup_steps=100)
    schedule = build_schedule(config, lambda: next(share))
    assert rates(schedule, 7, 3, 900, 0) == pytest.approx([0.0, 0.25, 0.5 * 500 / 900, 0.0])
