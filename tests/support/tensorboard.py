"""Reads event files with TensorBoard."""

from __future__ import annotations

import sys
import types
from pathlib import Path

# TensorBoard's switch for running without TensorFlow, which takes seconds to import.
sys.modules.setdefault("tensorboard.compat.notf", types.ModuleType("tensorboard.compat.notf"))

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # noqa: E402


def tensorboard_scalars(output: Path) -> dict[str, list[tuple[int, float]]]:
    """Return all steps and values by tag."""
    accumulator = EventAccumulator(str(output / "tensorboard"), size_guidance={"scalars": 0})
    accumulator.Reload()
    return {
        tag: [(event.step, event.value) for event in accumulator.Scalars(tag)] for tag in accumulator.Tags()["scalars"]
    }
