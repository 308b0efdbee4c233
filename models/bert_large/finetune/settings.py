"""The hyperparameters of fine-tuning, checked before any work starts."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bert_large.config import training as config
from bert_large.errors import InputError

PRECISIONS = tuple(name for name in config.PRECISIONS if name != "fp16")
"""Not fp16, for which the Trainer has no loss scaling on CPUs."""


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings:
    """The hyperparameters of a run. The defaults are in the range that BERT's authors searched."""

    epochs: int = 3
    """Passes over the training examples."""
    batch_size: int = 32
    """Sequences per optimizer step, and per pass when predicting."""
    learning_rate: float = 2e-5
    """Peak rate of AdamW; it decays linearly to 0."""
    warmup_share: float = 0.1
    """Share of the steps in which the rate rises linearly from 0."""
    weight_decay: float = 0.01
    """Decoupled weight decay; not applied to biases and LayerNorm."""
    max_seq_length: int = 128
    """Tokens per sequence; longer sequences are cut."""
    precision: str = "fp32"
    """Precision of matrix products; weights are always fp32."""
    max_train_samples: int | None = None
    """Number of examples to train on, from the first; None: all."""
    max_eval_samples: int | None = None
    """Number of examples of each evaluation split, from the first; None: all. Test splits are not limited."""

    def __post_init__(self) -> None:
        problems = [
            f"{name} is {value}, expected a finite number > 0"
            for name in ("epochs", "batch_size", "learning_rate", "max_train_samples", "max_eval_samples")
            if (value := getattr(self, name)) is not None and not 0 < value < math.inf
        ]
        if not 0 <= self.warmup_share < 1:
            problems.append(f"warmup_share is {self.warmup_share}, expected 0 <= share < 1")
        if not 0 <= self.weight_decay < math.inf:
            problems.append(f"weight_decay is {self.weight_decay}, expected a finite number >= 0")
        if self.max_seq_length < 8:
            problems.append(f"max_seq_length is {self.max_seq_length}, expected at least 8")
        if self.precision not in PRECISIONS:
            problems.append(f"precision is {self.precision!r}, expected one of {', '.join(PRECISIONS)}")
        if problems:
            raise InputError(f"wrong settings: {'; '.join(problems)}")
