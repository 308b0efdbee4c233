"""The optimizer's time over the time that its memory traffic alone takes."""

from __future__ import annotations

from typing import Any

import torch

from bert_large.model.bert import BertForPreTraining
from bert_large.observe.timing import Variant, alternate
from bert_large.optim.build import clip_gradients

BYTES_PER_PARAMETER = 40
"""fp32 traffic of LAMB in the two passes that a norm over the whole update forces.

First pass: read weight, gradient and both moments, write both moments (24 bytes). Second pass, when the norms are
known: read weight and both moments, write the weight (16 bytes).
"""
COPY_BYTES = 1 << 28
"""Of each of the two buffers of the copy."""


class _Copy:
    """A copy between two fp32 buffers, larger than a core's caches; its bandwidth counts bytes read and written."""

    def __init__(self, copy_bytes: int) -> None:
        self.source = torch.ones(copy_bytes // 4)
        self.target = torch.zeros(copy_bytes // 4)

    def run(self, round_: int) -> None:
        self.target.copy_(self.source)

    def bandwidth(self, seconds: float) -> float:
        """Return bytes per second."""
        return 2 * self.source.nbytes / seconds


def measure_optimizer(
    model: BertForPreTraining,
    optimizer: torch.optim.Optimizer,
    *,
    max_norm: float,
    rounds: int,
    warmups: int,
) -> dict[str, Any]:
    """Return figures of clipping, of `optimizer.step()` and of a copy, turn by turn, on gradients that are there.

    Clipping is the global norm's pass over the gradients; LAMB scales them as it reads them.
    """
    parameters = list(model.parameters())
    count = sum(parameter.numel() for parameter in parameters)
    copy = _Copy(COPY_BYTES)

    def measure_and_clip(round_: int) -> None:
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        clip_gradients(optimizer, model.engine.global_norm(gradients), max_norm)

    variants = {
        "clip": Variant(measure_and_clip),
        "optimizer": Variant(lambda round_: optimizer.step()),
        "copy": Variant(copy.run),
    }
    timings = alternate(variants, rounds=rounds, warmups=warmups)
    bound = BYTES_PER_PARAMETER * count / copy.bandwidth(timings["copy"].minimum)
    bound_median = BYTES_PER_PARAMETER * count / copy.bandwidth(timings["copy"].median)
    clip, step = timings["clip"], timings["optimizer"]
    return {
        "parameters": count,
        "optimizer_seconds": step.minimum,
        "clip_seconds": clip.minimum,
        "clip_and_optimizer_seconds": clip.minimum + step.minimum,
        "copy_bytes_per_second": copy.bandwidth(timings["copy"].minimum),
        "optimizer_bound_seconds": bound,
        "optimizer_over_bound": step.minimum / bound,
        "optimizer_over_bound_median": step.median / bound_median,
        "clip_and_optimizer_over_bound": (clip.minimum + step.minimum) / bound,
        "optimizer_rounds": {name: timing.as_figures() for name, timing in timings.items()},
    }
