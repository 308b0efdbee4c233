"""Hugging Face's BERT, the model that benchmarks compare with, as its users run it: padded and in training mode."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import torch
from packaging.version import Version
from torch import nn

from bert_large.bench.tolerance import Outcome, compute_gradients
from bert_large.config.hugging_face import IGNORED_LABEL
from bert_large.config.model import ModelConfig
from bert_large.data.record import Record
from bert_large.engines.ipex import find_fault, load_ipex
from bert_large.engines.precision import Precision
from bert_large.errors import InputError

PLAIN, SDPA, COMPILED, IPEX, FAST_BERT = (
    "hugging-face", "hugging-face-sdpa", "hugging-face-compile", "hugging-face-ipex", "hugging-face-fast-bert"
)  # fmt: skip
FORMS = {
    PLAIN: "eager",
    SDPA: "eager, with PyTorch's fused attention where it supports dropout",
    COMPILED: "under torch.compile",
    IPEX: "under ipex.optimize",
    FAST_BERT: "under ipex.fast_bert",
}
_FAST_BERT_TRANSFORMERS = "4.51.3"
"""The latest version of transformers that `ipex.fast_bert` accepts."""


def check_forms(names: Sequence[str]) -> None:
    """Raise `InputError` if a package that one of these forms needs is not installed."""
    if names and importlib.util.find_spec("transformers") is None:
        raise InputError(
            "--compare names Hugging Face's model, but transformers is not installed; install it "
            "(pip install 'transformers>=4.51,<6'), or give --compare other names or none"
        )
    of_ipex = [name for name in names if name in (IPEX, FAST_BERT)]
    fault = find_fault() if of_ipex else None
    if fault is not None:
        raise InputError(f"--compare names {of_ipex[0]}: {fault}")
    if FAST_BERT in names and Version(version("transformers")) > Version(_FAST_BERT_TRANSFORMERS):
        raise InputError(
            f"--compare names {FAST_BERT}, which supports transformers up to {_FAST_BERT_TRANSFORMERS}, found "
            f"{version('transformers')}; install transformers=={_FAST_BERT_TRANSFORMERS} in an environment for it"
        )


def _config(config: ModelConfig, form: str) -> Any:
    from transformers import BertConfig  # takes seconds to import

    changes = {"attn_implementation": "sdpa" if form == SDPA else "eager"}
    if form == FAST_BERT:
        changes["hidden_act"] = "gelu"  # the only one that it computes; the comparison of results judges the difference
    return BertConfig(**config.to_hugging_face() | changes)


def without_dropout(config: ModelConfig) -> ModelConfig:
    """Return the same model without dropout: each implementation draws other random numbers."""
    return replace(config, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)


def make_encoder(
    config: ModelConfig, form: str, precision: Precision, weights: Mapping[str, torch.Tensor]
) -> nn.Module:
    """Return their encoder in one of `FORMS`, in training mode, with a copy of our encoder's `weights`."""
    from transformers.models.bert.modeling_bert import BertEncoder, BertModel

    if form != FAST_BERT:
        plain = BertEncoder(_config(config, form)).train()
        plain.load_state_dict(weights)
        return _arrange(plain, form, precision, learning_rate=0.0)[0]
    model = BertModel(_config(config, form), add_pooling_layer=False).train()
    model.encoder.load_state_dict(weights)
    encoder = _arrange(model, form, precision, learning_rate=0.0)[0].get_submodule("encoder")

    def complete(encoder: nn.Module, arguments: tuple[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Add the mask, which fast_bert requires; it expects the type that its embeddings return."""
        hidden = arguments[0].to(precision.activation_dtype)
        return hidden, torch.zeros(len(hidden), 1, 1, hidden.shape[1])

    encoder.register_forward_pre_hook(complete)
    return encoder


def _arrange(
    model: nn.Module, form: str, precision: Precision, learning_rate: float
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Return a model in one of `FORMS`, and its optimizer."""
    if form == IPEX:
        ipex = load_ipex()
        # LAMB is the only optimizer for BERT that IPEX fuses, and only with it does it split master weights in bf16.
        lamb = ipex.optim._lamb.Lamb(model.parameters(), lr=learning_rate, weight_decay=0.01)
        return ipex.optimize(model, optimizer=lamb, dtype=precision.autocast_dtype, inplace=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, fused=True)
    if form == FAST_BERT:
        with contextlib.redirect_stdout(sys.stderr):  # where it prints a line for each module
            return load_ipex().fast_bert(model, precision.activation_dtype, optimizer, unpad=True)
    if form == COMPILED:
        torch.compiler.reset()  # forget the same model with another dropout, which would become a variable here
        model.compile()
    return model, optimizer


def pad(records: Sequence[Record], length: int) -> dict[str, torch.Tensor]:
    """Return the inputs of their model for `records`: int64 rows [B, length], and `next_sentence_label` [B]."""
    fills = {"input_ids": 0, "token_type_ids": 0, "attention_mask": 0, "labels": IGNORED_LABEL}
    rows = {name: torch.full((len(records), length), fill) for name, fill in fills.items()}  # int64, as `fill`
    for row, record in enumerate(records):
        tokens = len(record.input_ids)
        rows["input_ids"][row, :tokens] = torch.from_numpy(record.input_ids)
        rows["token_type_ids"][row, :tokens] = torch.from_numpy(record.token_type_ids)
        rows["attention_mask"][row, :tokens] = 1
        masked = torch.from_numpy(record.masked_positions).long()
        rows["labels"][row, masked] = torch.from_numpy(record.masked_ids).long()
    return rows | {"next_sentence_label": torch.tensor([record.next_sentence_label for record in records])}


class HuggingFaceTraining:
    """Optimizer steps of their model in one of `FORMS`: padded micro-batches, clipped gradients, PyTorch's fused AdamW.

    PyTorch and transformers have no LAMB. AdamW does less work, which favors their model. IPEX has its own LAMB.
    """

    def __init__(
        self,
        config: ModelConfig,
        form: str,
        weights: Mapping[str, torch.Tensor],
        *,
        precision: Precision,
        learning_rate: float,
        max_norm: float,
    ) -> None:
        """Start from a copy of our model's `weights`."""
        from transformers import BertForPreTraining

        model = BertForPreTraining(_config(config, form)).train()
        model.load_state_dict(weights, strict=False)  # not strict: their output layer is tied to the embeddings
        model.tie_weights()
        self.model, self.optimizer = _arrange(model, form, precision, learning_rate)
        self.precision = precision
        self.max_norm = max_norm

    def outcome(self, batch: dict[str, torch.Tensor]) -> Outcome:
        """Return the loss of one micro-batch and its gradients, and remove them from the model."""
        with self.precision.autocast():
            loss = self.model(**batch).loss
        return compute_gradients(loss, self.model)

    def step(self, batches: Sequence[dict[str, torch.Tensor]]) -> None:
        """Train one step on micro-batches from `pad`."""
        sequences = sum(len(batch["input_ids"]) for batch in batches)
        for batch in batches:
            with self.precision.autocast():
                loss = self.model(**batch).loss
            (loss * (len(batch["input_ids"]) / sequences)).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.max_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
