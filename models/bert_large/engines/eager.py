"""The reference engine: every operation in plain PyTorch, written for clarity; other engines are tested against it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from bert_large.data.batch import RaggedBatch, Selection
from bert_large.model.dropout import DropoutSite, attention_keep_mask, token_keep_mask
from bert_large.model.operations import Dense, Norm, at_least_float32
from bert_large.optim.lamb import LambArrays, LambSettings, update_in_turn

GELU_FORMS = {"gelu": "none", "gelu_pytorch_tanh": "tanh"}


class _Dropout(torch.autograd.Function):
    """values * keep / (1 - probability); it saves the mask as bytes, where autograd would save floats."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, keep: Tensor, probability: float) -> Tensor:
        ctx.save_for_backward(keep)
        ctx.scale = 1.0 / (1.0 - probability)
        return (values * keep).mul_(ctx.scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (keep,) = ctx.saved_tensors
        return (gradients[0] * keep).mul_(ctx.scale), None, None


def _norm(inputs: Tensor, norm: Norm) -> Tensor:
    return functional.layer_norm(inputs, norm.weight.shape, norm.weight, norm.bias, norm.eps)


def _drop_tokens(batch: RaggedBatch, values: Tensor, dropout: DropoutSite | None) -> Tensor:
    """Apply dropout to token rows [T, columns]."""
    if dropout is None:
        return values
    samples = batch.samples[batch.sequence_ids]
    keep = token_keep_mask(dropout, samples, batch.position_ids, values.shape[-1])
    return _Dropout.apply(values, keep, dropout.probability)


class EagerEngine:
    """`operations.Operations` in plain PyTorch. Only attention pads, to the longest sequence of a micro-batch.

    `linear(inputs, weight, bias)` and `lamb` can be replaced, which makes an engine of another name (`ipex`).
    """

    def __init__(
        self,
        name: str = "eager",
        linear: Callable[[Tensor, Tensor, Tensor], Tensor] = functional.linear,
        lamb: Callable[[Sequence[LambArrays], LambSettings], None] = update_in_turn,
    ) -> None:
        self.name = name
        self._linear = linear
        self._lamb = lamb

    def embed_norm_dropout(
        self, batch: RaggedBatch, words: Tensor, positions: Tensor, token_types: Tensor, norm: Norm,
        dropout: DropoutSite | None,
    ) -> Tensor:  # fmt: skip
        """See `Operations`."""
        embedded = functional.embedding(batch.input_ids, words)
        embedded = embedded + functional.embedding(batch.position_ids, positions)
        embedded = embedded + functional.embedding(batch.token_type_ids, token_types)
        return _drop_tokens(batch, _norm(embedded, norm), dropout)

    def attention_block(
        self, batch: RaggedBatch, hidden: Tensor, query: Dense, key: Dense, value: Dense, heads: int,
        probabilities_dropout: DropoutSite | None, output: Dense, norm: Norm, output_dropout: DropoutSite | None,
        read: Selection | None = None,
    ) -> Tensor:  # fmt: skip
        """See `Operations`."""
        context = self.attention(batch, hidden, query, key, value, heads, probabilities_dropout)
        if read is not None:
            batch, context, hidden = read.batch, context[read.rows], hidden[read.rows]
        return self.dense_dropout_residual_norm(batch, context, output, hidden, norm, output_dropout)

    def feed_forward_block(
        self, batch: RaggedBatch, hidden: Tensor, intermediate: Dense, activation: str, output: Dense, norm: Norm,
        dropout: DropoutSite | None,
    ) -> Tensor:  # fmt: skip
        """See `Operations`."""
        widened = self.dense_gelu(hidden, intermediate, activation)
        return self.dense_dropout_residual_norm(batch, widened, output, hidden, norm, dropout)

    def attention(
        self, batch: RaggedBatch, hidden: Tensor, query: Dense, key: Dense, value: Dense, heads: int,
        dropout: DropoutSite | None,
    ) -> Tensor:  # fmt: skip
        """Return multi-head self-attention of `hidden` [T, hidden] within each sequence, before its output layer."""
        sequences, length, width = batch.sequences, batch.max_length, hidden.shape[-1]
        slots = batch.sequence_ids * length + batch.position_ids  # [T] each token's row in the padded layout

        def padded_heads(dense: Dense) -> Tensor:
            projected = self._linear(hidden, dense.weight, dense.bias)
            padded = projected.new_zeros(sequences * length, width).index_copy(0, slots, projected)
            return padded.view(sequences, length, heads, width // heads).transpose(1, 2)

        scores = padded_heads(query) @ padded_heads(key).transpose(-1, -2)
        lengths = batch.cu_seqlens.diff()
        beyond = torch.arange(length) >= lengths.view(-1, 1, 1, 1)
        scores = at_least_float32(scores).div_(math.sqrt(width // heads)).masked_fill_(beyond, -math.inf)
        probabilities = torch.softmax(scores, dim=-1)
        if dropout is not None:
            keep = attention_keep_mask(dropout, batch.samples, heads, length)
            probabilities = _Dropout.apply(probabilities, keep, dropout.probability)
        context = probabilities @ padded_heads(value)
        return context.transpose(1, 2).reshape(sequences * length, width).index_select(0, slots)

    def dense_gelu(self, inputs: Tensor, dense: Dense, activation: str) -> Tensor:
        """Return gelu(dense(inputs)); `activation` is Hugging Face's name, "gelu" or "gelu_pytorch_tanh"."""
        return functional.gelu(self._linear(inputs, dense.weight, dense.bias), approximate=GELU_FORMS[activation])

    def dense_dropout_residual_norm(
        self, batch: RaggedBatch, inputs: Tensor, dense: Dense, residual: Tensor, norm: Norm,
        dropout: DropoutSite | None,
    ) -> Tensor:  # fmt: skip
        """Return norm(residual + dropout(dense(inputs))) as [T, hidden]."""
        projected = self._linear(inputs, dense.weight, dense.bias)
        return _norm(residual + _drop_tokens(batch, projected, dropout), norm)

    def masked_head(
        self, batch: RaggedBatch, hidden: Tensor, transform: Dense, activation: str, norm: Norm, words: Tensor,
        bias: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """See `Operations`."""
        masked = hidden.index_select(0, batch.masked_positions)
        transformed = self.transform(masked, transform, activation, norm)
        logits = at_least_float32(self._linear(transformed, words, bias))
        loss = functional.cross_entropy(logits, batch.masked_labels, reduction="sum")
        return loss, (logits.argmax(dim=-1) == batch.masked_labels).sum()

    def transform(self, masked: Tensor, dense: Dense, activation: str, norm: Norm) -> Tensor:
        """Return the input of the masked-LM head's decoder, norm(gelu(dense(masked))), as [M, hidden]."""
        return _norm(self.dense_gelu(masked, dense, activation), norm)

    def lamb(self, arrays: Sequence[LambArrays], settings: LambSettings) -> None:
        """See `Operations`."""
        self._lamb(arrays, settings)

    def global_norm(self, tensors: Sequence[Tensor]) -> float:
        """See `Operations`."""
        # In float64: PyTorch's float32 norm of a vocabulary-sized gradient on CPUs is off by as much as 1e-3.
        norms = [torch.linalg.vector_norm(tensor, dtype=torch.float64) for tensor in tensors]
        return float(torch.linalg.vector_norm(torch.stack(norms)))
