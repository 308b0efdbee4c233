"""The interface between the model and an engine: the operations that the model is made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from bert_large.data.batch import RaggedBatch, Selection
from bert_large.model.dropout import DropoutSite
from bert_large.optim.lamb import LambArrays, LambSettings


def at_least_float32(values: Tensor) -> Tensor:
    """Return `values` as float32, the least that softmax and losses are computed in; float64 stays float64."""
    return values if values.dtype == torch.float64 else values.float()


class Dense(nn.Module):
    """Parameters of a linear layer x @ weight.T + bias, uninitialized: `weight` [outputs, inputs], `bias` [outputs]."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.empty(outputs))


class Norm(nn.Module):
    """Parameters of a LayerNorm, uninitialized: `weight` [hidden], `bias` [hidden] and `eps`."""

    def __init__(self, hidden: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(hidden))
        self.bias = nn.Parameter(torch.empty(hidden))
        self.eps = eps


class Operations(Protocol):
    """The operations that an engine implements. T tokens, B sequences, M masked tokens.

    They are as coarse as the model allows, so that an engine can fuse what is inside. Results are differentiable by
    `backward()`, which adds the gradients of parameters to `.grad`; an engine need not support `torch.autograd.grad`.
    """

    name: str
    """Its name as a value of `--engine`."""

    def embed_norm_dropout(
        self, batch: RaggedBatch, words: Tensor, positions: Tensor, token_types: Tensor, norm: Norm,
        dropout: DropoutSite | None,
    ) -> Tensor:  # fmt: skip
        """Return dropout(norm(words[ids] + positions[...] + token_types[...])) as [T, hidden]."""

    def attention_block(
        self, batch: RaggedBatch, hidden: Tensor, query: Dense, key: Dense, value: Dense, heads: int,
        probabilities_dropout: DropoutSite | None, output: Dense, norm: Norm, output_dropout: DropoutSite | None,
        read: Selection | None = None,
    ) -> Tensor:  # fmt: skip
        """Return norm(hidden + dropout(output(attention(hidden)))) as [T, hidden], or only the rows `read`.

        Attention is multi-head self-attention within each sequence, with dropout on its probabilities.
        """

    def feed_forward_block(
        self, batch: RaggedBatch, hidden: Tensor, intermediate: Dense, activation: str, output: Dense, norm: Norm,
        dropout: DropoutSite | None,
    ) -> Tensor:  # fmt: skip
        """Return norm(hidden + dropout(output(gelu(intermediate(hidden))))) as [T, hidden].

        `activation` is the form of GELU by Hugging Face's name: "gelu" (erf) or "gelu_pytorch_tanh".
        """

    def masked_head(
        self, batch: RaggedBatch, hidden: Tensor, transform: Dense, activation: str, norm: Norm, words: Tensor,
        bias: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Predict the masked tokens: logits = norm(gelu(transform(hidden[masked]))) @ words.T + bias.

        Returns the cross-entropy summed over the M masked tokens (float32 scalar) and the number of correct predictions
        (int64 scalar, not differentiable).
        """

    def lamb(self, arrays: Sequence[LambArrays], settings: LambSettings) -> None:
        """Update parameters and their moments in place by one step of LAMB; gradients may be overwritten."""

    def global_norm(self, tensors: Sequence[Tensor]) -> float:
        """Return the norm of all tensors as one vector, with the squares summed in float64."""
