"""The seam between the model and an engine: the handful of operations that the model asks for."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import nn

from bert_large.data.batch import RaggedBatch
from bert_large.model.dropout import DropoutSite


def at_least_float32(values: torch.Tensor) -> torch.Tensor:
    """Return `values` in the precision that softmax and losses are computed in; double stays double."""
    return values if values.dtype == torch.float64 else values.float()


class Dense(Protocol):
    """A linear layer's parameters: `weight` [out, in] and `bias` [out]."""

    weight: nn.Parameter
    bias: nn.Parameter


class Norm(Protocol):
    """A LayerNorm's parameters: `weight` [hidden], `bias` [hidden] and `eps`."""

    weight: nn.Parameter
    bias: nn.Parameter
    eps: float


class Operations(Protocol):
    """What an engine implements. T tokens, B sequences, M masked tokens; every operation is differentiable."""

    name: str
    """What `--engine` calls it."""

    def embed_norm_dropout(
        self,
        batch: RaggedBatch,
        words: torch.Tensor,
        positions: torch.Tensor,
        token_types: torch.Tensor,
        norm: Norm,
        dropout: DropoutSite | None,
    ) -> torch.Tensor:
        """Return dropout(norm(words[ids] + positions[...] + token_types[...])) as [T, hidden]."""
        ...

    def attention(
        self,
        batch: RaggedBatch,
        hidden: torch.Tensor,
        query: Dense,
        key: Dense,
        value: Dense,
        heads: int,
        dropout: DropoutSite | None,
    ) -> torch.Tensor:
        """Return multi-head self-attention of `hidden` [T, hidden] within each sequence, before its output layer."""
        ...

    def dense_gelu(self, inputs: torch.Tensor, dense: Dense, activation: str) -> torch.Tensor:
        """Return gelu(dense(inputs)); `activation` is Hugging Face's name, "gelu" or "gelu_pytorch_tanh"."""
        ...

    def dense_dropout_residual_norm(
        self,
        batch: RaggedBatch,
        inputs: torch.Tensor,
        dense: Dense,
        residual: torch.Tensor,
        norm: Norm,
        dropout: DropoutSite | None,
    ) -> torch.Tensor:
        """Return norm(residual + dropout(dense(inputs))) as [T, hidden]."""
        ...

    def masked_head(
        self,
        batch: RaggedBatch,
        hidden: torch.Tensor,
        transform: Dense,
        activation: str,
        norm: Norm,
        words: torch.Tensor,
        bias: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Predict the masked tokens: logits = norm(gelu(transform(hidden[masked]))) @ words.T + bias.

        Returns the sum over the M masked tokens of the cross-entropy (float32 scalar) and the number of right
        predictions (int64 scalar, not differentiable).
        """
        ...
