"""The hyperparameters of fine-tuning, checked before any work starts."""

from __future__ import annotations

from dataclasses import dataclass

from bert_large.config import training as config
from bert_large.errors import InputError

PRECISIONS = tuple(name for name in config.PRECISIONS if name != "fp16")
"""The Trainer scales no loss on CPUs."""


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings:
    """What decides a seed's result beside data and model. Defaults lie in the range that BERT's authors searched."""

    epochs: int = 3
    """Passes over the training examples."""
    batch_size: int = 32
    """Sequences per optimizer step, and per pass when predicting."""
    learning_rate: float = 2e-5
    """Peak rate of AdamW; it decays linearly to 0."""
    warmup_share: float = 0.1
    """Share of the steps in which the rate rises linearly from 0."""
    weight_decay: float = 0.01
    """Decoupled; not on biases and LayerNorm."""
    max_seq_length: int = 128
    """Tokens of a sequence; longer ones are cut."""
    precision: str = "fp32"
    """Of matrix products; weights are fp32 in every one."""
    max_train_samples: int | None = None
    """Train on the first examples only."""
    max_eval_samples: int | None = None
    """Evaluate on the first examples of each split only; test splits are predicted whole."""

    def __post_init__(self) -> None:
        problems = [
            f"{name} is {getattr(self, name)}, expected > 0"
            for name in ("epochs", "batch_size", "learning_rate", "max_train_samples", "max_eval_samples")
            if getattr(self, name) is not None and not getattr(self, name) > 0
        ]
        if not 0 <= self.warmup_share < 1:
            problems.append(f"warmup_share is {self.warmup_share}, expected 0 <= share < 1")
        if not self.weight_decay >= 0:
            problems.append(f"weight_decay is {self.weight_decay}, expected >= 0")
        if self.max_seq_length < 8:
            problems.append(f"max_seq_length is {self.max_seq_length}, expected at least 8")
        if self.precision not in PRECISIONS:
            problems.append(f"precision is {self.precision!r}, expected one of {', '.join(PRECISIONS)}")
        if problems:
            raise InputError(f"wrong settings: {'; '.join(problems)}")
