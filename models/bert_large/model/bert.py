"""BERT with its pretraining heads on ragged batches (Devlin et al. 2018, arXiv 1810.04805): the whole model.

    embeddings   x = dropout(norm(word + position + segment))
    each layer   x = norm(x + dropout(output(attention(x))))
                 x = norm(x + dropout(output(gelu(intermediate(x)))))
    masked LM    logits of masked tokens = norm(gelu(transform(x))) @ word embeddings.T + bias
    next sent.   logits of sequences = seq_relationship(tanh(pooler(x of [CLS])))

A batch has no padding: x is [T, hidden] for the T real tokens of all sequences (`data.batch.RaggedBatch`), and only
attention sees where one sequence ends and the next begins. This file defines what is computed; how it is computed is up
to the engine, which implements the handful of operations in `operations.Operations`. So most modules here only hold
parameters.

Modules and parameters have the names of Hugging Face's `BertForPreTraining`, so a state dictionary of one loads into
the other. Architectures without some parts, such as DistilBERT, have the same names here (`config.hugging_face`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bert_large.config.model import ModelConfig
from bert_large.data.batch import RaggedBatch, Selection, select_tokens
from bert_large.data.record import NO_PAIR
from bert_large.errors import DataError
from bert_large.model.dropout import Site, StepDropout, site_dropout
from bert_large.model.operations import Dense, Norm, Operations, at_least_float32

_SEGMENTS = 2
"""Segments of a record; a model without segment embeddings reads records with two segments too."""


class Table(nn.Module):
    """Parameters of an embedding table, uninitialized."""

    def __init__(self, rows: int, hidden: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, hidden))


class Embeddings(nn.Module):
    """Word, position and (unless `type_vocab_size` is 0) segment embeddings with their LayerNorm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        segments, hidden = config.type_vocab_size, config.hidden_size
        self.word_embeddings = Table(config.vocab_size, hidden)
        self.position_embeddings = Table(config.max_position_embeddings, hidden)
        self.token_type_embeddings = Table(segments, hidden) if segments else None
        self.LayerNorm = Norm(hidden, config.layer_norm_eps)
        self.dropout_probability = config.hidden_dropout_prob

    def forward(self, batch: RaggedBatch, engine: Operations, dropout: StepDropout | None) -> Tensor:
        words, segments = self.word_embeddings.weight, self.token_type_embeddings
        return engine.embed_norm_dropout(
            batch,
            words,
            self.position_embeddings.weight,
            # Untrained zeros: adding them changes no bit of the sum, and engines need no case for it.
            words.new_zeros(_SEGMENTS, words.shape[1]) if segments is None else segments.weight,
            self.LayerNorm,
            site_dropout(dropout, self.dropout_probability, 0, Site.EMBEDDING),
        )


class SelfAttention(nn.Module):
    """Query, key and value projections."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.query = Dense(hidden, hidden)
        self.key = Dense(hidden, hidden)
        self.value = Dense(hidden, hidden)


class Output(nn.Module):
    """A linear layer whose result, after dropout, is added to the residual stream and normalized."""

    def __init__(self, inputs: int, hidden: int, eps: float) -> None:
        super().__init__()
        self.dense = Dense(inputs, hidden)
        self.LayerNorm = Norm(hidden, eps)


class Attention(nn.Module):
    """Self-attention (`attention.self.*`) and its output layer (`attention.output.*`)."""

    def __init__(self, hidden: int, eps: float) -> None:
        super().__init__()
        self.self = SelfAttention(hidden)
        self.output = Output(hidden, hidden, eps)


class Intermediate(nn.Module):
    """The first linear layer of the feed-forward network, which widens hidden to intermediate size."""

    def __init__(self, hidden: int, intermediate: int) -> None:
        super().__init__()
        self.dense = Dense(hidden, intermediate)


class Layer(nn.Module):
    """One transformer layer: attention, then feed-forward network, each with a residual and LayerNorm after it."""

    def __init__(self, config: ModelConfig, number: int) -> None:
        super().__init__()
        hidden, eps = config.hidden_size, config.layer_norm_eps
        self.attention = Attention(hidden, eps)
        self.intermediate = Intermediate(hidden, config.intermediate_size)
        self.output = Output(config.intermediate_size, hidden, eps)
        self.number = number
        self.heads = config.num_attention_heads
        self.activation = config.hidden_act
        self.attention_dropout = config.attention_probs_dropout_prob
        self.attention_output_dropout = config.hidden_dropout_prob if config.traits.drops_attention_output else 0.0
        self.hidden_dropout = config.hidden_dropout_prob

    def forward(self, batch: RaggedBatch, hidden: Tensor, engine: Operations, dropout: StepDropout | None) -> Tensor:
        return self.feed_forward(batch, self.attend(batch, hidden, engine, dropout), engine, dropout)

    def attend(
        self, batch: RaggedBatch, hidden: Tensor, engine: Operations, dropout: StepDropout | None,
        read: Selection | None = None,
    ) -> Tensor:  # fmt: skip
        """Return the output of the layer's first half, the only part of the model in which tokens mix."""
        projections, output = self.attention.self, self.attention.output
        probabilities_site = site_dropout(dropout, self.attention_dropout, self.number, Site.ATTENTION_PROBABILITIES)
        output_site = site_dropout(dropout, self.attention_output_dropout, self.number, Site.ATTENTION_OUTPUT)
        return engine.attention_block(
            batch, hidden, projections.query, projections.key, projections.value, self.heads, probabilities_site,
            output.dense, output.LayerNorm, output_site, read,
        )  # fmt: skip

    def feed_forward(
        self, batch: RaggedBatch, hidden: Tensor, engine: Operations, dropout: StepDropout | None
    ) -> Tensor:
        """Return the output of the layer's second half, which treats each token by itself."""
        return engine.feed_forward_block(
            batch, hidden, self.intermediate.dense, self.activation, self.output.dense, self.output.LayerNorm,
            site_dropout(dropout, self.hidden_dropout, self.number, Site.FEED_FORWARD_OUTPUT),
        )  # fmt: skip


class Encoder(nn.Module):
    """The transformer layers."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Layer(config, number) for number in range(config.num_hidden_layers))


class Pooler(nn.Module):
    """The linear layer and tanh between the first token ([CLS]) and the next-sentence head."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.dense = Dense(hidden, hidden)

    def forward(self, first_tokens: Tensor) -> Tensor:
        return torch.tanh(nn.functional.linear(first_tokens, self.dense.weight, self.dense.bias))


class Bert(nn.Module):
    """The encoder without heads."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)
        self.pooler = Pooler(config.hidden_size) if config.traits.has_next_sentence_head else None

    def forward(self, batch: RaggedBatch, engine: Operations, dropout: StepDropout | None) -> Tensor:
        """Return the encoder's output [T, hidden]."""
        hidden = self.embeddings(batch, engine, dropout)
        for layer in self.encoder.layer:
            hidden = layer(batch, hidden, engine, dropout)
        return hidden

    def encode_for_heads(
        self, batch: RaggedBatch, engine: Operations, dropout: StepDropout | None
    ) -> tuple[RaggedBatch, Tensor]:
        """Return the batch of the tokens that the pretraining heads read, and the encoder's output for them.

        The heads read the first token and the masked tokens of each sequence, about a sixth of all. After the last
        layer's attention no token influences another, so the rest of that layer is computed for these tokens only.
        """
        *layers, last = cast(list[Layer], list(self.encoder.layer))
        hidden = self.embeddings(batch, engine, dropout)
        for layer in layers:
            hidden = layer(batch, hidden, engine, dropout)
        rows = torch.unique(torch.cat([batch.cu_seqlens[:-1].long(), batch.masked_positions]))
        read = select_tokens(batch, rows)
        hidden = last.attend(batch, hidden, engine, dropout, read)
        return read.batch, last.feed_forward(read.batch, hidden, engine, dropout)


class Transform(nn.Module):
    """The linear layer and LayerNorm before the decoder."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dense = Dense(config.hidden_size, config.hidden_size)
        self.LayerNorm = Norm(config.hidden_size, config.layer_norm_eps)


class Predictions(nn.Module):
    """The masked-LM head. Its decoder has only a bias of its own: the weights are the word embeddings."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.transform = Transform(config)
        self.bias = nn.Parameter(torch.empty(config.vocab_size))


class Heads(nn.Module):
    """The pretraining heads: masked LM and, unless the architecture leaves it out, next sentence."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.predictions = Predictions(config)
        self.seq_relationship = Dense(config.hidden_size, 2) if config.traits.has_next_sentence_head else None


@dataclass(frozen=True)
class PretrainingSums:
    """Sums over a batch: losses (float32 scalars, differentiable) and correct predictions (int64 scalars).

    Sums, not means: a step adds them up over micro-batches and ranks and divides once. The next-sentence sums are 0 for
    a model without that head.
    """

    masked_lm_loss: Tensor
    masked_lm_correct: Tensor
    next_sentence_loss: Tensor
    next_sentence_correct: Tensor


def draw_truncated_normal(generator: np.random.Generator, out: NDArray[np.float32]) -> None:
    """Fill a contiguous array with draws from a standard normal distribution, those beyond two deviations redrawn."""
    draws = out.reshape(-1)
    generator.standard_normal(dtype=np.float32, out=draws)
    beyond = np.flatnonzero((draws < -2) | (draws > 2))
    while beyond.size:
        draws[beyond] = generator.standard_normal(beyond.size, dtype=np.float32)
        beyond = beyond[np.abs(draws[beyond]) > 2]


class BertForPreTraining(nn.Module):
    """The whole model; `engine` computes its operations."""

    def __init__(self, config: ModelConfig, engine: Operations) -> None:
        super().__init__()
        self.config = config
        self.engine = engine
        self.bert = Bert(config)
        self.cls = Heads(config)

    @torch.no_grad()
    def initialize(self, seed: int) -> None:
        """Initialize like MLCommons' reference: weights truncated normal, biases 0, LayerNorm weights 1.

        The draws come from NumPy, in the order of parameters, so that a seed means the same weights in every version of
        PyTorch.
        """
        generator = np.random.default_rng(seed)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif "LayerNorm" in name:
                nn.init.ones_(parameter)
            else:
                draws = parameter.numpy()
                draw_truncated_normal(generator, draws)
                draws *= np.float32(self.config.initializer_range)

    def forward(self, batch: RaggedBatch, dropout: StepDropout | None) -> PretrainingSums:
        """Return loss sums and correct predictions; `dropout` is None in evaluation.

        Raises `DataError` if the model has a next-sentence head and a record has no pair of segments.
        """
        read, hidden = self.bert.encode_for_heads(batch, self.engine, dropout)
        head, words = self.cls.predictions, self.bert.embeddings.word_embeddings.weight
        masked_lm = self.engine.masked_head(
            read, hidden, head.transform.dense, self.config.hidden_act, head.transform.LayerNorm, words, head.bias
        )
        if not self.config.traits.has_next_sentence_head:
            return PretrainingSums(*masked_lm, *map(torch.zeros_like, masked_lm))
        logits, labels = self.next_sentence_logits(read, hidden), batch.next_sentence_labels
        if (labels == NO_PAIR).any():
            raise DataError(
                "a record without a pair of segments, expected pairs for the model's next-sentence head; give records "
                "of pairs, or --masked-lm-only to train without that head"
            )
        next_sentence_loss = nn.functional.cross_entropy(logits, labels, reduction="sum")
        return PretrainingSums(*masked_lm, next_sentence_loss, (logits.argmax(dim=-1) == labels).sum())

    def next_sentence_predictions(self, sequences: int) -> int:
        """Return the number of next-sentence predictions for a number of sequences: the same, or 0 without the head."""
        return sequences if self.config.traits.has_next_sentence_head else 0

    def next_sentence_logits(self, batch: RaggedBatch, hidden: Tensor) -> Tensor:
        """Return logits [B, 2] for (B follows A, B is random), at least float32, from the encoder's output [T, hidden].

        The model must have the next-sentence head.
        """
        head = self.cls.seq_relationship
        assert self.bert.pooler is not None and head is not None
        # oneDNN compiles products for each new number of rows: zero rows are added up to a multiple of 32.
        first_tokens = nn.functional.pad(hidden[batch.cu_seqlens[:-1].long()], (0, 0, 0, -batch.sequences % 32))
        pooled = self.bert.pooler(first_tokens)
        return at_least_float32(nn.functional.linear(pooled, head.weight, head.bias))[: batch.sequences]


def skeleton(config: ModelConfig) -> BertForPreTraining:
    """Return a model on PyTorch's meta device: parameters with names, shapes and dtypes, but no storage.

    It has no engine. `to_empty(device="cpu")` gives it memory to load weights into.
    """
    with torch.device("meta"):
        return BertForPreTraining(config, cast(Operations, None))
