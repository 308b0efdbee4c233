"""Values of settings with their origins, and the rules by which some of them decide others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bert_large.config.training import BENCHMARK_STEPS, RECIPE_SETTINGS, STEPS_OF_TIME

_GIVEN = ("option", "variable")


@dataclass(frozen=True)
class Resolved:
    """The value that a run uses for a setting, and its origin."""

    value: Any
    origin: str
    """"option", "variable", "recipe NAME", "default", or the setting or rule that it follows from."""

    @property
    def is_given(self) -> bool:
        """Whether the user gave the value, and not a recipe or a rule."""
        return self.origin in _GIVEN


def resolve_length(settings: dict[str, Resolved], *, benchmark: bool = False) -> None:
    """Resolve the length of a run and of its schedule in place, in steps or in hours.

    A length that the user gives replaces the recipe's. The schedule of a run of hours has `STEPS_OF_TIME` steps, which
    are equal parts of its time, whatever number of steps it trains.
    """
    if benchmark and not settings["max_steps"].is_given:
        settings["max_steps"] = Resolved(BENCHMARK_STEPS, "--benchmark")
    if settings["max_steps"].is_given or benchmark:
        _drop(settings, "max_hours", "--benchmark" if benchmark else "max_steps")
    is_timed = settings["max_hours"].value is not None
    if is_timed and settings["max_hours"].is_given:
        _drop(settings, "max_samples", "max_hours")
    if settings["total_steps"].value is None:
        settings["total_steps"] = Resolved(settings["max_steps"].value, "max_steps")
    _resolve_warmup(settings)
    if is_timed:
        _stretch_over_time(settings)
    elif settings["warmup_fraction"].value is not None and settings["total_steps"].value is not None:
        steps = round(settings["warmup_fraction"].value * settings["total_steps"].value)
        settings["warmup_steps"] = _unless_given(settings["warmup_steps"], Resolved(steps, "warmup_fraction"))


def _unless_given(setting: Resolved, other: Resolved) -> Resolved:
    return setting if setting.is_given else other


def _drop(settings: dict[str, Resolved], name: str, origin: str) -> None:
    """Remove the value of a setting, unless the user gave it."""
    if settings[name].value is not None:
        settings[name] = _unless_given(settings[name], Resolved(None, origin))


def _resolve_warmup(settings: dict[str, Resolved]) -> None:
    """Drop a recipe's warmup where the user gives one in the other unit."""
    steps, fraction = settings["warmup_steps"], settings["warmup_fraction"]
    if steps.is_given:
        _drop(settings, "warmup_fraction", "warmup_steps")
    elif fraction.value is None and steps.value == 0 and settings["schedule"].value == "one-cycle":
        settings["warmup_fraction"] = Resolved(0.3, "schedule one-cycle")


def _stretch_over_time(settings: dict[str, Resolved]) -> None:
    """Convert a schedule of steps to one of hours: a warmup in steps becomes its fraction of the recipe's steps."""
    fraction, total = settings["warmup_fraction"], settings["total_steps"].value
    if fraction.value is None:
        share = min(1.0, settings["warmup_steps"].value / total) if total else 0.0
        fraction = Resolved(share, settings["warmup_steps"].origin)
    lengths = {"max_steps": STEPS_OF_TIME, "total_steps": STEPS_OF_TIME}
    lengths["warmup_steps"] = round(fraction.value * STEPS_OF_TIME)
    for name, steps in lengths.items():  # values that the user gives stay, for `find_conflicts` to report
        settings[name] = _unless_given(settings[name], Resolved(steps, "max_hours"))


def find_conflicts(settings: Mapping[str, Resolved]) -> list[str]:
    """Return what is wrong with settings that are right one by one: values that contradict each other or do nothing."""
    rules = (_find_two_lengths, _find_useless_decay, _find_useless_warmup, _find_short_schedule, _find_half_a_ramp,
             _find_useless_masking)  # fmt: skip
    return [problem for rule in rules for problem in rule(settings)]


def _find_two_lengths(settings: Mapping[str, Resolved]) -> list[str]:
    """Find lengths of the run or of its warmup that are given in two units."""
    given = _given(settings)
    problems = [
        f"--{_option(name)} is given with --max-hours, which sets the length of the run; give one of them"
        + ("; --warmup-fraction sets the warmup" if name == "warmup_steps" else "")
        for name in ("max_steps", "total_steps", "warmup_steps")
        if settings["max_hours"].value is not None and name in given
    ]
    if {"warmup_steps", "warmup_fraction"} <= given:
        problems.append("--warmup-steps and --warmup-fraction are both given, expected one of them")
    return problems


def _find_useless_decay(settings: Mapping[str, Resolved]) -> list[str]:
    """Find settings of another schedule's decay, and a decay of wsd that the warmup shortens."""
    given, schedule = _given(settings), settings["schedule"].value
    problems = [
        f"--{_option(name)} is given, but --schedule is {schedule}; it applies to {applies} only"
        for name, applies in (("decay_power", "polynomial"), ("decay_fraction", "wsd"))
        if name in given and schedule != applies
    ]
    total, fraction = settings["total_steps"].value, settings["decay_fraction"].value
    warmup_end = settings["warmup_steps"].value + settings["start_warmup_step"].value
    are_given = given & {"warmup_steps", "warmup_fraction", "decay_fraction"}
    # Less than a step of overlap comes from rounding.
    if schedule == "wsd" and are_given and warmup_end - (1.0 - fraction) * total >= 1:
        problems.append(
            f"--decay-fraction is {fraction:g} of the schedule and the warmup ends after {warmup_end / total:g} of it, "
            "expected at most 1 together with --schedule wsd; shorten the warmup or lower --decay-fraction"
        )
    return problems


def _find_useless_warmup(settings: Mapping[str, Resolved]) -> list[str]:
    """Find a start of the warmup that the schedule does not have, or after which no step is in the warmup."""
    start, warmup = settings["start_warmup_step"], settings["warmup_steps"].value
    if start.value and (settings["max_hours"].value is not None or settings["schedule"].value == "one-cycle"):
        return [
            f"--start-warmup-step is {start.value}, expected 0 with --schedule one-cycle and with --max-hours, whose "
            "warmup starts with the run"
        ]
    if start.value and start.value + warmup <= 0 and (start.is_given or warmup):
        return [
            f"--start-warmup-step is {start.value}, but the warmup has {warmup} steps and ends before the run; give a "
            "longer warmup (--warmup-steps or --warmup-fraction) or --start-warmup-step 0"
        ]
    return []


def _find_short_schedule(settings: Mapping[str, Resolved]) -> list[str]:
    """Find a schedule that ends before the run, or before its peak; that of a run of hours cannot."""
    if settings["max_hours"].value is not None:
        return []
    steps, total, warmup = (settings[name].value for name in ("max_steps", "total_steps", "warmup_steps"))
    if steps > total:
        return [
            f"--max-steps is {steps} and --total-steps {total}: the learning rate is 0 from step {total} on; "
            "raise --total-steps or lower --max-steps"
        ]
    if settings["schedule"].value == "one-cycle" and warmup >= total:
        return [
            f"--warmup-steps is {warmup}, expected less than --total-steps {total}: one-cycle peaks there and falls"
        ]
    return []


def _find_half_a_ramp(settings: Mapping[str, Resolved]) -> list[str]:
    """Find a ramp of the batch without a start or a length, or one that falls."""
    start, ramp, batch = (
        settings[name].value for name in ("start_batch_size", "batch_ramp_steps", "global_batch_size")
    )
    if (start is None) != (ramp == 0):
        found = f"--batch-ramp-steps is {ramp}" + ("" if start is None else f" with --start-batch-size {start}")
        return [f"{found}, expected both --start-batch-size and --batch-ramp-steps above 0, or neither"]
    if start is not None and start > batch:
        return [f"--start-batch-size is {start}, expected at most --global-batch-size, which is {batch}"]
    return []


def _find_useless_masking(settings: Mapping[str, Resolved]) -> list[str]:
    """Find settings of dynamic masking without it; a recipe's count too."""
    return [
        f"--{_option(name)} is {settings[name].value} without --dynamic-masking, and the records' own masks stay as "
        "they are; give --dynamic-masking, or leave it out"
        for name in ("masking_rate", "masking_unit")
        if settings[name].origin != "default" and not settings["dynamic_masking"].value
    ]


def _given(settings: Mapping[str, Resolved]) -> set[str]:
    """Return the names of the settings that the user gave."""
    return {name for name, setting in settings.items() if setting.is_given}


def _option(name: str) -> str:
    """Return the option of a setting that a recipe may hold, without dashes."""
    return RECIPE_SETTINGS[name].option
