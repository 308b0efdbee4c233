"""Where the time of a step goes: the profiler's events of the training thread, each assigned to a stage.

Every event's own time (without that of the events inside it) counts for one stage, so that stages add up to the step:

- Forward, an event is of the innermost marker around it (`marked`), refined by what it computes: in the encoder,
  matrix products of linear layers are "dense" and LayerNorms "normalisation", whichever operation they are a part of.
- Backward, autograd's nodes are of the stage of the operation that made them, which bears the same sequence number.
  The native engine's nodes compute several stages: they are refined by what they call, as forward.
- Gradients that are added up in `.grad` are of the stage whose node ran before.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import record_function

STAGES = ("dense", "attention", "normalisation", "embedding", "head", "optimizer", "communication", "data", "rest")
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
"""Stages of events by how their names start, wherever they are."""
_ENCODER_STAGES = ("attention", "dense", "normalisation")
_ENCODER_OPERATORS = {
    "aten::linear": "dense",
    "aten::mm": "dense",
    "aten::addmm": "dense",
    "aten::addmm_": "dense",
    "aten::gelu": "dense",
    "_PackedLinear": "dense",
    "bert_large::add_bfloat16": "dense",
    "bert_large::transposed": "dense",
    "bert_large::gelu": "dense",
    "bert_large::gelu_gradient": "dense",
    "aten::layer_norm": "normalisation",
    "bert_large::residual_norm": "normalisation",
    "bert_large::residual_norm_gradient": "normalisation",
}
"""Stages of what an encoder's layers compute, where the marker around it says less."""


def stage_marker(stage: str) -> record_function:
    """Return the context that marks what runs in it as of a stage, for the profiler; without one it does nothing."""
    return record_function(_MARKER + stage)


@contextlib.contextmanager
def marked(owner: object, methods: Mapping[str, str]) -> Iterator[None]:
    """Mark calls of an object's methods as of the stages named, as long as the context lasts."""
    shadows = {name: _in_stage(getattr(owner, name), stage) for name, stage in methods.items()}
    vars(owner).update(shadows)  # also on a frozen dataclass; found before the class's own
    try:
        yield
    finally:
        for name in shadows:
            del vars(owner)[name]


def _in_stage(method: Any, stage: str) -> Any:
    @functools.wraps(method)
    def run(*arguments: Any, **named: Any) -> Any:
        with stage_marker(stage):
            return method(*arguments, **named)

    return run


@dataclass
class StageSeconds:
    """Time of a stage in a step."""

    total: float = 0.0
    backward: float = 0.0
    """What of `total` is the backward pass's."""


def divide_step(events: Sequence[FunctionEvent], step: str) -> dict[str, StageSeconds]:
    """Return the time of each of `STAGES` within the event named `step`; together they are its time."""
    root = next(event for event in events if event.name == step)
    division = _Division()
    division.divide(root, "rest", in_backward=False)
    return division.seconds


class _Division:
    """A walk through a step's events in the order of time: forward operations come before their nodes."""

    def __init__(self) -> None:
        self.seconds = {stage: StageSeconds() for stage in STAGES}
        self._made_in: dict[int, str] = {}
        """Stage of the operation that made the node with a sequence number: the last to see the number makes it."""
        self._last_node = "rest"

    def divide(self, event: FunctionEvent, around: str, *, in_backward: bool) -> None:
        """Add the time of `event` and of all inside it; `around` is the stage of what it is part of."""
        in_backward = in_backward or event.name.startswith(_NODE)
        stage = self._stage(event, around)
        if not in_backward and event.sequence_nr >= 0:
            self._made_in[event.sequence_nr] = stage
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
            self._last_node = self._made_in.get(event.sequence_nr, "rest")
            return self._last_node
        for start, stage in _STARTS.items():
            if event.name.startswith(start):
                return stage
        if around in ("rest", *_ENCODER_STAGES) and event.name.startswith(_MARKER):
            return event.name.removeprefix(_MARKER)
        if around in _ENCODER_STAGES:
            return _ENCODER_OPERATORS.get(event.name, around)
        return around
