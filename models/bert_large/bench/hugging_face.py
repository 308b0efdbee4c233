"""Hugging Face's BERT, the model we are compared with, as its users run it: padded, in training mode."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from bert_large.config import ModelConfig
from bert_large.data.record import Record
from bert_large.engines.precision import Precision
from bert_large.errors import InputError

IGNORED_LABEL = -100
"""What their loss leaves out."""


def require_transformers() -> None:
    """Raise `InputError` if Hugging Face's package is not installed."""
    if importlib.util.find_spec("transformers") is None:
        raise InputError(
            "Hugging Face's transformers, which to compare with, is not installed; "
            "install it (pip install 'transformers>=4.51,<6') or leave it out with --without-hugging-face"
        )


def _config(config: ModelConfig, attention: str) -> Any:
    from transformers import BertConfig  # seconds to import: only when it is compared with

    return BertConfig(**config.to_hugging_face() | {"attn_implementation": attention})


def make_encoder(config: ModelConfig, attention: str) -> nn.Module:
    """Return their encoder in training mode; `attention` is "eager" or "sdpa"."""
    from transformers.models.bert.modeling_bert import BertEncoder

    return BertEncoder(_config(config, attention)).train()


def make_model(config: ModelConfig) -> nn.Module:
    """Return their `BertForPreTraining` with eager attention, in training mode."""
    from transformers import BertForPreTraining

    return BertForPreTraining(_config(config, "eager")).train()


def pad(records: Sequence[Record], length: int) -> dict[str, torch.Tensor]:
    """Return what their model takes for `records`: rows [B, length] of int64, and `next_sentence_label` [B]."""
    rows = {
        name: torch.full((len(records), length), fill, dtype=torch.int64)
        for name, fill in (("input_ids", 0), ("token_type_ids", 0), ("attention_mask", 0), ("labels", IGNORED_LABEL))
    }
    for row, record in enumerate(records):
        tokens = len(record.input_ids)
        rows["input_ids"][row, :tokens] = torch.from_numpy(record.input_ids)
        rows["token_type_ids"][row, :tokens] = torch.from_numpy(record.token_type_ids)
        rows["attention_mask"][row, :tokens] = 1
        rows["labels"][row, torch.from_numpy(record.masked_positions).long()] = torch.from_numpy(
            record.masked_ids
        ).long()
    return rows | {"next_sentence_label": torch.tensor([record.next_sentence_label for record in records])}


class HuggingFaceTraining:
    """Optimizer steps of their model: padded micro-batches, gradients clipped, PyTorch's fused AdamW.

    They have no LAMB; a fused AdamW does less work, which is in their favour.
    """

    def __init__(self, config: ModelConfig, *, precision: Precision, learning_rate: float, max_norm: float) -> None:
        self.model = make_model(config)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=learning_rate, fused=True)
        self.precision = precision
        self.max_norm = max_norm

    def step(self, batches: Sequence[dict[str, torch.Tensor]]) -> None:
        """Train one step on micro-batches that `pad` made."""
        sequences = sum(len(batch["input_ids"]) for batch in batches)
        for batch in batches:
            with self.precision.autocast():
                loss = self.model(**batch).loss
            (loss * (len(batch["input_ids"]) / sequences)).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.max_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
