"""The training state that a checkpoint holds besides tensors, and its validation when it is read back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from bert_large.train.bad_steps import LossTrend, SkippedSteps

INITIAL_SCALE = 65536.0
GROWTH_INTERVAL = 2000


@dataclass(frozen=True)
class LossScale:
    """Dynamic loss scaling: multiplying the loss keeps gradients that fp16 would round to 0.

    It holds the factor, and the state that determines the next one. Factors are powers of 2, so that scaling is exact.
    Micikevicius et al. 2018, "Mixed Precision Training"; the constants are those of PyTorch's `GradScaler`.
    """

    scale: float = INITIAL_SCALE
    good_steps: int = 0
    """Number of updates since the scale last changed."""

    def after_update(self) -> LossScale:
        """Return the scale after a step with an update: doubled after `GROWTH_INTERVAL` updates at the same scale."""
        if self.good_steps + 1 < GROWTH_INTERVAL:
            return replace(self, good_steps=self.good_steps + 1)
        return replace(self, scale=self.scale * 2, good_steps=0)

    def after_overflow(self) -> LossScale | None:
        """Return the scale after a step whose update was skipped: half, or None if that would be below 1."""
        if self.scale < 2:
            return None
        return LossScale(self.scale / 2)


@dataclass(frozen=True)
class TrainingState:
    """The state of a run after a step. `step` is also the data cursor: sample order is a pure function of it."""

    step: int = 0
    samples: int | None = 0
    """Number of samples trained on; None if unknown, because the checkpoint was imported."""
    evaluation_due: bool = False
    """An evaluation belongs after this step, but the run was interrupted before it finished."""
    loss_scale: LossScale | None = None
    """None if the precision needs no loss scale."""
    skipped: SkippedSteps = field(default_factory=SkippedSteps)
    loss_trend: LossTrend = field(default_factory=LossTrend)
    masked_lm_accuracy: float | None = None
    """Accuracy of the evaluation after this step, or None; the run may have reached its target accuracy with it."""
    seconds: float | None = None
    """Time trained; None if the length of the run is not given in hours."""

    @property
    def updates(self) -> int:
        """Number of optimizer updates: all steps but the skipped ones."""
        return self.step - self.skipped.total

    def __post_init__(self) -> None:
        counts = {"step": self.step, **({} if self.samples is None else {"samples": self.samples})}
        for name, value in counts.items():
            if type(value) is not int or value < 0:  # they are read from files, and become part of folder names
                raise ValueError(f"{name} is {value!r}, expected a whole number >= 0")


def state_from(values: Any) -> TrainingState:
    """Return the state that `dataclasses.asdict` converted to `values`; raises `ValueError` for any other values."""
    _check_types(values, {"loss_scale": dict | None, "masked_lm_accuracy": float | None, "skipped": dict,
                          "loss_trend": dict, "step": int, "samples": int | None, "evaluation_due": bool,
                          "seconds": float | None})  # fmt: skip
    scale, skipped, trend = values["loss_scale"], values["skipped"], values["loss_trend"]
    _check_types(scale or {"scale": 1.0, "good_steps": 0}, {"scale": float, "good_steps": int})
    _check_types(skipped, {"total": int, "in_a_row": int})
    _check_types(trend, {"steps": int, "mean": float, "lowest": float | None})
    loss_scale = LossScale(**scale) if scale else None
    parts = {"loss_scale": loss_scale, "skipped": SkippedSteps(**skipped), "loss_trend": LossTrend(**trend)}
    return TrainingState(**{**values, **parts})


def _check_types(values: Any, types: Mapping[str, Any]) -> None:
    """Raise `ValueError` unless `values` is a dictionary with exactly these names, and values of these types."""
    if not isinstance(values, dict) or set(values) != set(types):
        raise ValueError(f"found {str(values)[:60]}, expected {', '.join(types)}")
    for name, kind in types.items():
        if not isinstance(values[name], kind):
            raise ValueError(f"{name} is {str(values[name])[:60]}")
