"""LAMB with IPEX's fused kernel, equivalent to `optim.lamb.update_parameter`; IPEX must be loaded."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from bert_large.optim.lamb import LambArrays, LambSettings, trust_ratio, update_in_turn


def update_together(arrays: Sequence[LambArrays], settings: LambSettings) -> None:
    """Update several parameters; their gradients are overwritten.

    The kernel applies bias correction, epsilon and weight decay as LAMB defines them, with two exceptions:
    - It scales every update by a trust ratio. Biases and LayerNorms must have none, so PyTorch updates them.
    - It sums the norms of the ratio in float32, which makes a step of BERT's vocabulary 0.06% too long, and one of a
      feed-forward weight 0.003%. So it is called with rate 0: it then updates the moments and leaves the update in the
      gradient's memory. The norms and the step are computed here.
    """
    if not settings.adapt:
        update_in_turn(arrays, settings)
        return
    for entry in arrays:
        update = entry.gradient.contiguous()  # the kernel would update a copy of any other layout
        if settings.gradient_scale != 1.0:
            update.mul_(settings.gradient_scale)
        torch.ops.torch_ipex.lamb_fused_step(
            entry.weight, entry.mean, entry.mean_square, update, torch.empty(0), settings.step, settings.beta_1,
            settings.beta_2, 0.0, settings.weight_decay, settings.epsilon,
        )  # fmt: skip
        entry.weight.add_(update, alpha=-settings.rate * trust_ratio(entry.weight, update))
