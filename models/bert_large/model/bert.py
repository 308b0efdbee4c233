"""BERT with its two pretraining heads on ragged batches (Devlin et al. 2018, post-LayerNorm), or with parts left out.

Modules and parameters carry the names of Hugging Face's `BertForPreTraining`, so that a state dictionary of one loads
into the other; other models have the same names here (`architectures`). What is computed is here; how, is the engine's
matter (`operations.Operations`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bert_large.config.model import ModelConfig
from bert_large.data.batch import RaggedBatch, select_tokens
from bert_large.model.dropout import Site, StepDropout, site_dropout
from bert_large.model.operations import Operations, at_least_float32

_SEGMENTS = 2
"""Of a record, whatever the model makes of them."""


class Dense(nn.Module):
    """Parameters of a linear layer, uninitialised."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.empty(outputs))


class Norm(nn.Module):
    """Parameters of a LayerNorm, uninitialised."""

    def __init__(self, hidden: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(hidden))
        self.bias = nn.Parameter(torch.empty(hidden))
        self.eps = eps


class Table(nn.Module):
    """Parameters of an embedding, uninitialised."""

    def __init__(self, rows: int, hidden: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, hidden))


class Embeddings(nn.Module):
    """Word, position and, where the model tells segments apart, segment embeddings with their LayerNorm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.word_embeddings = Table(config.vocab_size, config.hidden_size)
        self.position_embeddings = Table(config.max_position_embeddings, config.hidden_size)
        segments, hidden = config.type_vocab_size, config.hidden_size
        self.token_type_embeddings = Table(segments, hidden) if segments else None
        self.LayerNorm = Norm(config.hidden_size, config.layer_norm_eps)
        self.dropout_probability = config.hidden_dropout_prob

    def forward(self, batch: RaggedBatch, engine: Operations, dropout: StepDropout | None) -> torch.Tensor:
        words, segments = self.word_embeddings.weight, self.token_type_embeddings
        return engine.embed_norm_dropout(
            batch,
            words,
            self.position_embeddings.weight,
            # Zeros that nobody trains: the sum of embeddings is then that of the other two, to the last bit.
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
    """A linear layer whose result is added to a residual and normalised."""

    def __init__(self, inputs: int, hidden: int, eps: float) -> None:
        super().__init__()
        self.dense = Dense(inputs, hidden)
        self.LayerNorm = Norm(hidden, eps)


class Attention(nn.Module):
    """Self-attention (`attention.self.*`) with its output layer (`attention.output.*`)."""

    def __init__(self, hidden: int, eps: float) -> None:
        super().__init__()
        self.self = SelfAttention(hidden)
        self.output = Output(hidden, hidden, eps)


class Intermediate(nn.Module):
    """The widening linear layer of the feed-forward network."""

    def __init__(self, hidden: int, intermediate: int) -> None:
        super().__init__()
        self.dense = Dense(hidden, intermediate)


class Layer(nn.Module):
    """One transformer layer."""

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

    def forward(
        self, batch: RaggedBatch, hidden: torch.Tensor, engine: Operations, dropout: StepDropout | None
    ) -> torch.Tensor:
        return self.feed_forward(batch, self.attend(batch, hidden, engine, dropout), engine, dropout)

    def attend(
        self, batch: RaggedBatch, hidden: torch.Tensor, engine: Operations, dropout: StepDropout | None
    ) -> torch.Tensor:
        """Return the first half of the layer, where tokens see each other."""
        projections, output = self.attention.self, self.attention.output
        probabilities_site = site_dropout(dropout, self.attention_dropout, self.number, Site.ATTENTION_PROBABILITIES)
        output_site = site_dropout(dropout, self.attention_output_dropout, self.number, Site.ATTENTION_OUTPUT)
        return engine.attention_block(
            batch, hidden, projections.query, projections.key, projections.value, self.heads, probabilities_site,
            output.dense, output.LayerNorm, output_site,
        )  # fmt: skip

    def feed_forward(
        self, batch: RaggedBatch, hidden: torch.Tensor, engine: Operations, dropout: StepDropout | None
    ) -> torch.Tensor:
        """Return the second half of the layer, where each token is on its own."""
        return engine.feed_forward_block(
            batch, hidden, self.intermediate.dense, self.activation, self.output.dense, self.output.LayerNorm,
            site_dropout(dropout, self.hidden_dropout, self.number, Site.FEED_FORWARD_OUTPUT),
        )  # fmt: skip


class Encoder(nn.Module):
    """The stack of layers."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Layer(config, number) for number in range(config.num_hidden_layers))


class Pooler(nn.Module):
    """The linear layer on [CLS] before the next-sentence head."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.dense = Dense(hidden, hidden)

    def forward(self, first_tokens: torch.Tensor) -> torch.Tensor:
        return torch.tanh(nn.functional.linear(first_tokens, self.dense.weight, self.dense.bias))


class Bert(nn.Module):
    """The encoder without heads."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)
        self.pooler = Pooler(config.hidden_size) if config.traits.has_next_sentence_head else None

    def forward(self, batch: RaggedBatch, engine: Operations, dropout: StepDropout | None) -> torch.Tensor:
        """Return the encoder's output [T, hidden]."""
        hidden = self.embeddings(batch, engine, dropout)
        for layer in self.encoder.layer:
            hidden = layer(batch, hidden, engine, dropout)
        return hidden

    def encode_for_heads(
        self, batch: RaggedBatch, engine: Operations, dropout: StepDropout | None
    ) -> tuple[RaggedBatch, torch.Tensor]:
        """Return the tokens that the pretraining heads read, as a batch, and the encoder's output for them.

        They are the first and the masked tokens of each sequence, a sixth of all: the second half of the last layer is
        computed for them alone.
        """
        *layers, last = cast(list[Layer], list(self.encoder.layer))
        hidden = self.embeddings(batch, engine, dropout)
        for layer in layers:
            hidden = layer(batch, hidden, engine, dropout)
        hidden = last.attend(batch, hidden, engine, dropout)
        rows = torch.unique(torch.cat([batch.cu_seqlens[:-1].long(), batch.masked_positions]))
        read = select_tokens(batch, rows)
        return read, last.feed_forward(read, hidden.index_select(0, rows), engine, dropout)


class Transform(nn.Module):
    """The linear layer and LayerNorm before the tied decoder."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dense = Dense(config.hidden_size, config.hidden_size)
        self.LayerNorm = Norm(config.hidden_size, config.layer_norm_eps)


class Predictions(nn.Module):
    """The masked-LM head; its decoder's weights are the word embeddings."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.transform = Transform(config)
        self.bias = nn.Parameter(torch.empty(config.vocab_size))


class Heads(nn.Module):
    """The pretraining heads that the model has."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.predictions = Predictions(config)
        self.seq_relationship = Dense(config.hidden_size, 2) if config.traits.has_next_sentence_head else None


@dataclass(frozen=True)
class PretrainingSums:
    """Sums over a batch (scalars): losses float32 and differentiable, counts of right predictions int64.

    Those of next sentences are 0 where the model has no head for them.
    """

    masked_lm_loss: torch.Tensor
    masked_lm_correct: torch.Tensor
    next_sentence_loss: torch.Tensor
    next_sentence_correct: torch.Tensor


def truncated_normal(generator: np.random.Generator, count: int) -> NDArray[np.float32]:
    """Return draws [count] from a standard normal; those beyond two deviations are drawn again."""
    draws = generator.standard_normal(count, dtype=np.float32)
    beyond = np.flatnonzero(np.abs(draws) > 2)
    while beyond.size:
        draws[beyond] = generator.standard_normal(beyond.size, dtype=np.float32)
        beyond = beyond[np.abs(draws[beyond]) > 2]
    return draws


class BertForPreTraining(nn.Module):
    """The whole model, without what its architecture leaves out. `engine` computes its operations."""

    def __init__(self, config: ModelConfig, engine: Operations) -> None:
        super().__init__()
        self.config = config
        self.engine = engine
        self.bert = Bert(config)
        self.cls = Heads(config)

    @torch.no_grad()
    def initialize(self, seed: int) -> None:
        """Draw the weights from a normal truncated at two deviations, as the reference does; biases 0, norms 1."""
        generator = np.random.default_rng(seed)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif "LayerNorm" in name:
                nn.init.ones_(parameter)
            else:
                draws = truncated_normal(generator, parameter.numel()) * np.float32(self.config.initializer_range)
                parameter.copy_(torch.from_numpy(draws).view_as(parameter))

    def forward(self, batch: RaggedBatch, dropout: StepDropout | None) -> PretrainingSums:
        """Return loss sums and right predictions; `dropout` None computes as in evaluation."""
        read, hidden = self.bert.encode_for_heads(batch, self.engine, dropout)
        head = self.cls.predictions
        masked_lm_loss, masked_lm_correct = self.engine.masked_head(
            read,
            hidden,
            head.transform.dense,
            self.config.hidden_act,
            head.transform.LayerNorm,
            self.bert.embeddings.word_embeddings.weight,
            head.bias,
        )
        if not self.config.traits.has_next_sentence_head:
            return PretrainingSums(
                masked_lm_loss,
                masked_lm_correct,
                torch.zeros_like(masked_lm_loss),
                torch.zeros_like(masked_lm_correct),
            )
        next_sentence_logits = self.next_sentence_logits(read, hidden)
        labels = batch.next_sentence_labels
        return PretrainingSums(
            masked_lm_loss,
            masked_lm_correct,
            nn.functional.cross_entropy(next_sentence_logits, labels, reduction="sum"),
            (next_sentence_logits.argmax(dim=-1) == labels).sum(),
        )

    def next_sentence_predictions(self, sequences: int) -> int:
        """Return how many next-sentence predictions are made of so many sequences: that, or none."""
        return sequences if self.config.traits.has_next_sentence_head else 0

    def next_sentence_logits(self, batch: RaggedBatch, hidden: torch.Tensor) -> torch.Tensor:
        """Return logits [B, 2] (follows, random), in float32 at least, from the encoder's output [T, hidden].

        Only of a model that has a head for them.
        """
        head = self.cls.seq_relationship
        assert self.bert.pooler is not None and head is not None
        pooled = self.bert.pooler(hidden[batch.cu_seqlens[:-1].long()])
        return at_least_float32(nn.functional.linear(pooled, head.weight, head.bias))


def skeleton(config: ModelConfig) -> BertForPreTraining:
    """Return a model on PyTorch's meta device: parameters with names, shapes and types, but without memory.

    It has no engine. `to_empty(device="cpu")` gives it memory to load weights into.
    """
    with torch.device("meta"):
        return BertForPreTraining(config, cast(Operations, None))
