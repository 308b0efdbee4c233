"""The training loss, normalized over the global batch as in MLCommons' reference."""

from __future__ import annotations

from typing import TypeVar

import torch

from bert_large.model.bert import PretrainingSums

Number = TypeVar("Number", float, torch.Tensor)

_EPSILON = 1e-5
"""The reference's constant; it keeps the mean over masked tokens defined when there are none."""


def masked_lm_loss(loss_sum: Number, masked_tokens: float) -> Number:
    """Return the mean cross-entropy of masked tokens: its sum over (their number + 1e-5)."""
    return loss_sum / (masked_tokens + _EPSILON)


def micro_batch_loss(sums: PretrainingSums, masked_tokens: float, sequences: int) -> torch.Tensor:
    """Return a micro-batch's part of the loss of a global batch with so many masked tokens and sequences.

    These parts add up to the loss of the global batch, so its gradient is the sum of theirs, however it is cut into
    micro-batches and spread over ranks.
    """
    return masked_lm_loss(sums.masked_lm_loss, masked_tokens) + sums.next_sentence_loss / sequences


def as_row(sums: PretrainingSums) -> torch.Tensor:
    """Return [4] float64: masked-LM loss and correct predictions, next-sentence loss and correct predictions."""
    values = (sums.masked_lm_loss, sums.masked_lm_correct, sums.next_sentence_loss, sums.next_sentence_correct)
    return torch.tensor([float(value.detach()) for value in values], dtype=torch.float64)
