"""What TensorBoard itself reads from a run's event files."""

from __future__ import annotations

import sys
import types
from pathlib import Path

# TensorBoard's own switch to do without TensorFlow, which takes seconds to import.
sys.modules.setdefault("tensorboard.compat.notf", types.ModuleType("tensorboard.compat.notf"))

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # noqa: E402


def tensorboard_scalars(output: Path) -> dict[str, list[tuple[int, float]]]:
    """Return steps and values by tag, all of them."""
    accumulator = EventAccumulator(str(output / "tensorboard"), size_guidance={"scalars": 0})
    accumulator.Reload()
    return {
        tag: [(event.step, event.value) for event in accumulator.Scalars(tag)] for tag in accumulator.Tags()["scalars"]
    }
