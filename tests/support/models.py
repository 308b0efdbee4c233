"""Tiny models, and the files that describe them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from bert_large.config.model import ModelConfig
from bert_large.engines.eager import EagerEngine
from bert_large.model.bert import BertForPreTraining

from tests.support.records import VOCAB_SIZE

DISTILBERT: dict[str, Any] = {"architecture": "DistilBertForMaskedLM", "type_vocab_size": 0}
"""What makes a DistilBERT of a `ModelConfig`."""
MASKED_LM_ONLY: dict[str, Any] = {"architecture": "BertForMaskedLM"}


def tiny_config(**changes: Any) -> ModelConfig:
    """Return a BERT of 32 hidden units in 2 layers, dropout 0.1, for records of `tests.support.records`."""
    values: dict[str, Any] = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
    }
    return ModelConfig(**values | changes)


def tiny_model(seed: int = 0, **changes: Any) -> BertForPreTraining:
    """Return an initialised tiny model on the eager engine."""
    model = BertForPreTraining(tiny_config(**changes), EagerEngine())
    model.initialize(seed)
    return model


def randomize(model: torch.nn.Module, seed: int = 0, spread: float = 0.3) -> None:
    """Draw every parameter at random, biases and norms too, so that each one matters to the result."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            around = 1.0 if "LayerNorm.weight" in name else 0.0
            parameter.copy_(around + spread * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))


def write_config(path: Path, **changes: Any) -> Path:
    """Write a `bert_config.json` in Google's format and return its path."""
    names = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
             "hidden_dropout_prob", "attention_probs_dropout_prob", "max_position_embeddings", "type_vocab_size",
             "initializer_range")  # fmt: skip
    config = tiny_config()
    values = {name: getattr(config, name) for name in names} | {"hidden_act": "gelu"} | changes
    path.write_text(json.dumps(values), encoding="utf-8")
    return path
