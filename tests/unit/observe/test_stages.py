"""The division of profiler events into stages."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import pytest
import torch
from bert_large.observe.stages import STAGES, divide_step, mark_methods, stage_marker
from torch.autograd.profiler_util import Interval
from torch.profiler import ProfilerActivity, profile, record_function

NODE = "autograd::engine::evaluate_function: "


@dataclass
class Event:
    """The attributes of a profiler's event that `divide_step` reads."""

    name: str
    start: int
    end: int
    cpu_children: list[Event] = field(default_factory=list)
    sequence_nr: int = -1

    @property
    def time_range(self) -> Interval:
        return Interval(self.start, self.end)


def divide(*parts: Event, end: int = 1_000_000) -> dict[str, Any]:
    """Return the total and backward seconds of each stage with any, of a step from 0 to `end` microseconds."""
    divided = divide_step(cast(Any, [Event("step 1", 0, end, list(parts))]), "step 1")
    assert sum(seconds.total for seconds in divided.values()) == pytest.approx(end / 1e6)
    return {stage: (seconds.total, seconds.backward) for stage, seconds in divided.items() if seconds.total}


def test_a_marker_is_refined_in_the_encoder() -> None:
    """Products and LayerNorm have their own stages; other time belongs to the marker, or to the rest of the step."""
    product = Event("aten::mm", 100_000, 300_000)
    norm = Event("bert_large::residual_norm", 300_000, 400_000)
    block = Event("stage: attention", 0, 500_000, [Event("AttentionBlock", 50_000, 450_000, [product, norm])])
    assert divide(block) == {
        "dense": (pytest.approx(0.2), 0),
        "normalization": (pytest.approx(0.1), 0),
        "attention": (pytest.approx(0.2), 0),
        "rest": (0.5, 0),
    }


def test_the_head_keeps_its_products() -> None:
    """Also inside the marker of a method that the head shares with the encoder."""
    shared = Event("stage: dense", 0, 400_000, [Event("aten::linear", 0, 300_000)])
    assert divide(Event("stage: head", 0, 1_000_000, [shared])) == {"head": (1.0, 0)}


def test_a_node_belongs_to_the_stage_that_created_it() -> None:
    """The last operation with a sequence number creates the node; accumulation belongs to the node before it."""
    forward = [
        Event("stage: embedding", 0, 100_000, [Event("aten::arange", 0, 100_000, sequence_nr=7)]),
        Event("stage: head", 100_000, 200_000, [Event("aten::addmm", 100_000, 200_000, sequence_nr=7)]),
    ]
    node = Event(f"{NODE}AddmmBackward0", 200_000, 700_000, [Event("aten::mm", 200_000, 600_000)], sequence_nr=7)
    sum_ = Event(f"{NODE}torch::autograd::AccumulateGrad", 700_000, 800_000)
    assert divide(*forward, node, sum_) == {
        "embedding": (0.1, 0),
        "head": (pytest.approx(0.7), pytest.approx(0.6)),
        "rest": (pytest.approx(0.2), 0),
    }


def test_native_nodes_are_refined() -> None:
    """One node computes products, attention and LayerNorm."""
    forward = Event("stage: attention", 0, 100_000, [Event("AttentionBlock", 0, 100_000, sequence_nr=3)])
    parts = [Event("aten::mm", 100_000, 500_000), Event("bert_large::attention_gradient", 500_000, 900_000)]
    node = Event(f"{NODE}AttentionBlockBackward", 100_000, 1_000_000, parts, sequence_nr=3)
    assert divide(forward, node) == {
        "attention": (pytest.approx(0.6), pytest.approx(0.5)),
        "dense": (pytest.approx(0.4), pytest.approx(0.4)),
    }


def test_other_stages_follow_from_names() -> None:
    parts = [Event("Optimizer.step#Lamb.step", 0, 500_000), Event("c10d::allreduce_", 500_000, 1_000_000)]
    assert divide(*parts) == {"optimizer": (0.5, 0), "communication": (0.5, 0)}


class Engine:
    def attention_block(self, values: torch.Tensor) -> torch.Tensor:
        return values @ values


def test_marked_methods() -> None:
    """The profiler sees the marker inside the context, and afterwards the object is as before."""
    engine = Engine()
    marks = mark_methods(engine, {"attention_block": "attention"})
    with profile(activities=[ProfilerActivity.CPU]) as profiled, record_function("step 1"), marks:
        engine.attention_block(torch.ones(200, 200))
    assert not vars(engine)
    divided = divide_step(profiled.events(), "step 1")
    assert tuple(divided) == STAGES
    assert divided["dense"].total > 0


def test_a_missing_method_is_an_error() -> None:
    with pytest.raises(AttributeError, match="lamb"), mark_methods(Engine(), {"lamb": "optimizer"}):
        pass


def test_waiting_in_the_backward_pass() -> None:
    """Time of a marker around the backward pass belongs to its stage only outside autograd's nodes."""
    values = torch.ones(200, 200, requires_grad=True)
    with profile(activities=[ProfilerActivity.CPU]) as profiled, record_function("step 1"):
        with stage_marker("dense"):
            product = (values @ values).sum()
        with stage_marker("communication"):
            product.backward()
    divided = divide_step(profiled.events(), "step 1")
    assert divided["dense"].backward > 0
    assert divided["communication"].total > 0 and divided["communication"].backward == 0
