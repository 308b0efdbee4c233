"""Division of a step's time into stages, from the profiler's events of the training thread.

The own time of every event (without that of the events inside it) counts for one stage, so the stages add up to the
step:

- In the forward pass, an event belongs to the innermost `stage_marker` around it, refined by its operator: in the
  encoder, matrix products of linear layers are "dense" and LayerNorms "normalization", whichever marker they are in.
- In the backward pass, an autograd node belongs to the stage of the operation that created it; both have the same
  sequence number. A node of the native engine computes several stages and is refined by the operators it calls.
- Accumulation into `.grad` belongs to the stage of the node that ran before it.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import record_function

STAGES = ("dense", "attention", "normalization", "embedding", "head", "optimizer", "communication", "data", "rest")
_MARKER = "stage: "
_NODE = "autograd::engine::evaluate_function: "
_ACCUMULATION = f"{_NODE}torch::autograd::AccumulateGrad"
_STARTS = {
    "Optimizer.step#": "optimizer",
    "Optimizer.zero_grad#": "optimizer",
    "c10d::": "communication",
    "gloo:": "communication",
    "torch.distributed.ddp": "communication",
}
"""Stages of events by prefix of their name, independent of the marker around them."""
_ENCODER_STAGES = ("attention", "dense", "normalization")
_ENCODER_OPERATORS = {
    "aten::linear": "dense",
    "aten::mm": "dense",
    "aten::addmm": "dense",
    "aten::addmm_": "dense",
    "aten::gelu": "dense",
    "_PackedLinear": "dense",
    "bert_large::pack_weights": "dense",
    "bert_large::packed_product": "dense",
    "bert_large::packed_product_gelu": "dense",
    "bert_large::packed_input_gradient": "dense",
    "bert_large::packed_input_gradient_gelu": "dense",
    "bert_large::weight_gradient": "dense",
    "bert_large::gelu": "dense",
    "bert_large::gelu_gradient": "dense",
    "aten::layer_norm": "normalization",
    "bert_large::residual_norm": "normalization",
    "bert_large::residual_norm_gradient": "normalization",
}
"""Stages of operators inside an encoder layer; they take precedence over the marker around them."""


def stage_marker(stage: str) -> record_function:
    """Return a context whose events the profiler assigns to `stage`; without a profiler it costs a microsecond."""
    return record_function(_MARKER + stage)


@contextlib.contextmanager
def mark_methods(owner: object, stages: Mapping[str, str]) -> Iterator[None]:
    """Run the methods of `owner` that `stages` names inside the marker of their stage, until the context ends.

    Engines are marked this way from outside, so that none of them has to know about stages.
    """
    wrappers = {name: _mark(getattr(owner, name), stage) for name, stage in stages.items()}
    vars(owner).update(wrappers)  # instance attributes hide methods of the class, even on a frozen dataclass
    try:
        yield
    finally:
        for name in wrappers:
            del vars(owner)[name]


def _mark(method: Any, stage: str) -> Any:
    @functools.wraps(method)
    def run(*arguments: Any, **named: Any) -> Any:
        with stage_marker(stage):
            return method(*arguments, **named)

    return run


@dataclass
class StageSeconds:
    """Seconds of one stage."""

    total: float = 0.0
    backward: float = 0.0
    """Part of `total` that belongs to the backward pass."""


def divide_step(events: Sequence[FunctionEvent], step: str) -> dict[str, StageSeconds]:
    """Return the seconds of each of `STAGES` within the event named `step`; they add up to that event's time."""
    root = next(event for event in events if event.name == step)
    division = _Division()
    division.divide(root, "rest", in_backward=False)
    return division.seconds


class _Division:
    """Walks through a step's events in order of time: forward operations come before the nodes they create."""

    def __init__(self) -> None:
        self.seconds = {stage: StageSeconds() for stage in STAGES}
        self._created_in: dict[int, str] = {}
        """Stage of the operation that created the node with a sequence number: the last event with that number."""
        self._last_node = "rest"

    def divide(self, event: FunctionEvent, around: str, *, in_backward: bool) -> None:
        """Add the time of `event` and of all events inside it; `around` is the stage of the enclosing event."""
        in_backward = in_backward or event.name.startswith(_NODE)
        stage = self._stage(event, around)
        if not in_backward and event.sequence_nr >= 0:
            self._created_in[event.sequence_nr] = stage
        own = event.time_range.elapsed_us()
        for part in sorted(event.cpu_children, key=lambda part: part.time_range.start):
            own -= part.time_range.elapsed_us()
            self.divide(part, stage, in_backward=in_backward)
        self.seconds[stage].total += own / 1e6
        if in_backward:
            self.seconds[stage].backward += own / 1e6

    def _stage(self, event: FunctionEvent, around: str) -> str:
        if event.name == _ACCUMULATION:
            return self._last_node
        if event.name.startswith(_NODE):
            self._last_node = self._created_in.get(event.sequence_nr, "rest")
            return self._last_node
        for start, stage in _STARTS.items():
            if event.name.startswith(start):
                return stage
        if around in ("rest", *_ENCODER_STAGES) and event.name.startswith(_MARKER):
            return event.name.removeprefix(_MARKER)
        if around in _ENCODER_STAGES:
            return _ENCODER_OPERATORS.get(event.name, around)
        return around
