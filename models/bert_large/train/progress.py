"""How far a run is: what a checkpoint keeps besides tensors, and what of it is believed when it is read again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bert_large.train.bad_steps import LossTrend, SkippedSteps
from bert_large.train.loss_scale import LossScale


@dataclass(frozen=True)
class Progress:
    """How far a run is; its data cursor is `samples`, as sample order is a pure function."""

    step: int = 0
    samples: int | None = 0
    """None: not known, as the checkpoint was imported; a run counts step times its global batch."""
    evaluation_due: bool = False
    """An evaluation belongs after this step, and was left undone because the run was interrupted."""
    loss_scale: LossScale | None = None
    """None: the run's precision needs none."""
    skipped: SkippedSteps = field(default_factory=SkippedSteps)
    loss_trend: LossTrend = field(default_factory=LossTrend)
    masked_lm_accuracy: float | None = None
    """Of the evaluation after this step; None: there was none. The target may have been reached here."""

    @property
    def updates(self) -> int:
        """Optimizer updates made: all steps but those that were skipped."""
        return self.step - self.skipped.total

    def __post_init__(self) -> None:
        counts = {"step": self.step, **({} if self.samples is None else {"samples": self.samples})}
        for name, value in counts.items():
            if type(value) is not int or value < 0:  # they come from files, and become names of folders
                raise ValueError(f"{name} is {value!r}, expected a whole number from 0")


def progress_from(values: Any) -> Progress:
    """Return the progress that `dataclasses.asdict` made these values of; `ValueError` if it cannot have."""
    _check_types(values, {"loss_scale": dict | None, "masked_lm_accuracy": float | None, "skipped": dict,
                          "loss_trend": dict, "step": int, "samples": int | None, "evaluation_due": bool})  # fmt: skip
    scale, skipped, trend = values["loss_scale"], values["skipped"], values["loss_trend"]
    _check_types(scale or {"scale": 1.0, "good_steps": 0}, {"scale": float, "good_steps": int})
    _check_types(skipped, {"total": int, "in_a_row": int})
    _check_types(trend, {"steps": int, "mean": float, "lowest": float | None})
    loss_scale = LossScale(**scale) if scale else None
    parts = {"loss_scale": loss_scale, "skipped": SkippedSteps(**skipped), "loss_trend": LossTrend(**trend)}
    return Progress(**{**values, **parts})


def _check_types(values: Any, types: Mapping[str, Any]) -> None:
    """Raise `ValueError` unless `values` is a dictionary of exactly these names, each of its type."""
    if not isinstance(values, dict) or set(values) != set(types):
        raise ValueError(f"found {str(values)[:60]}, expected {', '.join(types)}")
    for name, kind in types.items():
        if not isinstance(values[name], kind):
            raise ValueError(f"{name} is {str(values[name])[:60]}")
