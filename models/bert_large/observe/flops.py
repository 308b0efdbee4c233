"""Floating-point operations of the matrix products of a training step."""

from __future__ import annotations

import torch

from bert_large.config.model import ModelConfig

_PER_WEIGHT_AND_TOKEN = 3 * 2
"""Three products (forward, gradient of the inputs, gradient of the weights), each a multiplication and an addition."""


def product_flops(model: ModelConfig, cu_seqlens: torch.Tensor, masked_tokens: int) -> dict[str, int]:
    """Return the operations of a micro-batch's products by stage, forward and backward.

    Args:
        model: the model's configuration.
        cu_seqlens: [sequences + 1] start of each sequence among the micro-batch's tokens; the last value is the number
            of tokens.
        masked_tokens: number of masked tokens of the micro-batch.

    What follows the last layer's attention, its output layer included, computes only the tokens that the heads read
    (`Bert.encode_for_heads`). Attention has two products, scores and context, and both factors get a gradient.
    """
    hidden, layers = model.hidden_size, model.num_hidden_layers
    sequences, tokens = len(cu_seqlens) - 1, int(cu_seqlens[-1])
    read = sequences + masked_tokens  # the first token of a sequence is never masked
    squared_lengths = int(cu_seqlens.diff().long().square().sum())
    projections = (layers * tokens * 3 + (layers - 1) * tokens + read) * hidden**2
    feed_forward = ((layers - 1) * tokens + read) * 2 * hidden * model.intermediate_size
    masked_head = masked_tokens * hidden * (hidden + model.vocab_size)
    next_sentence_head = sequences * hidden * (hidden + 2) if model.traits.has_next_sentence_head else 0
    return {
        "dense": _PER_WEIGHT_AND_TOKEN * (projections + feed_forward),
        "attention": _PER_WEIGHT_AND_TOKEN * layers * 2 * hidden * squared_lengths,
        "head": _PER_WEIGHT_AND_TOKEN * (masked_head + next_sentence_head),
    }
