"""Floating-point operations of the matrix products of a training step."""

from __future__ import annotations

from bert_large.config.model import ModelConfig
from bert_large.data.batch import RaggedBatch

_PER_MULTIPLICATION = 3 * 2
"""A multiplication and an addition each: forward, for the gradient of the inputs, and for that of the weights."""


def product_flops(model: ModelConfig, batch: RaggedBatch) -> dict[str, int]:
    """Return by stage the operations of a micro-batch's products forward and backward, none for padding.

    The last layer's feed-forward block and the heads compute some of the tokens alone (`Bert.encode_for_heads`).
    Attention's are its scores and its context, each of whose factors gets a gradient.
    """
    hidden, layers = model.hidden_size, model.num_hidden_layers
    read = batch.sequences + batch.masked_tokens  # a sequence's first token is never masked
    squares = int(batch.cu_seqlens.diff().long().square().sum())
    projections = layers * batch.tokens * 4 * hidden**2
    feed_forward = ((layers - 1) * batch.tokens + read) * 2 * hidden * model.intermediate_size
    masked_head = batch.masked_tokens * hidden * (hidden + model.vocab_size)
    next_sentence_head = batch.sequences * hidden * (hidden + 2) if model.traits.has_next_sentence_head else 0
    return {
        "dense": _PER_MULTIPLICATION * (projections + feed_forward),
        "attention": _PER_MULTIPLICATION * layers * 2 * hidden * squares,
        "head": _PER_MULTIPLICATION * (masked_head + next_sentence_head),
    }
