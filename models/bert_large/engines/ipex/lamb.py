"""LAMB with IPEX's fused kernel, the same as `optim.lamb.update_parameter`; IPEX must have been loaded."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from bert_large.optim.lamb import LambArrays, LambSettings, trust_ratio, update_in_turn


def update_together(arrays: Sequence[LambArrays], settings: LambSettings) -> None:
    """Update several parameters; their gradients are used up.

    The kernel corrects both moments' bias and takes epsilon and decay as given. It scales every parameter's update by
    a ratio, so biases and LayerNorms, few numbers that want none, are not its. It sums the ratio's norms in float32,
    which makes a step of BERT's vocabulary too long by 0.06% and of a feed-forward weight by 0.003%: so it is asked for
    a step of rate 0, which updates the moments and leaves the update where the gradient was. Norms and the step itself
    are made here.
    """
    if not settings.adapt:
        update_in_turn(arrays, settings)
        return
    for entry in arrays:
        update = entry.gradient.contiguous()  # of anything else the kernel would change a copy
        if settings.gradient_scale != 1.0:
            update.mul_(settings.gradient_scale)
        torch.ops.torch_ipex.lamb_fused_step(
            entry.weight, entry.mean, entry.mean_square, update, torch.empty(0), settings.step, settings.beta_1,
            settings.beta_2, 0.0, settings.weight_decay, settings.epsilon,
        )  # fmt: skip
        entry.weight.add_(update, alpha=-settings.rate * trust_ratio(entry.weight, update))
