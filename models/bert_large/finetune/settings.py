"""The hyperparameters of fine-tuning, checked before any work starts."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from bert_large.config import training as config
from bert_large.config.options import SMALLEST_FLOAT, setting

PRECISIONS = tuple(name for name in config.PRECISIONS if name != "fp16")
"""Without fp16: the Trainer does not scale the loss on CPUs."""
_setting = functools.partial(setting, deferred=True)


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings(config.Checked):
    """Settings that decide a seed's result. Defaults are in the range that BERT's authors tried."""

    epochs: int = _setting(3, "passes over the training examples", within="[1, 100000]")
    batch_size: int = _setting(
        32,
        "sequences per optimizer step, and per pass when predicting",
        within="[1, 1048576]",
        aliases=("batch_size",),
    )
    learning_rate: float = _setting(
        2e-5, "peak learning rate of AdamW; it decays linearly to 0", within=f"[{SMALLEST_FLOAT}, inf)"
    )
    warmup_share: float = _setting(
        0.1, "share of the steps in which the learning rate rises linearly from 0", within="[0, 1)"
    )
    weight_decay: float = _setting(
        0.01, "decoupled weight decay, not applied to biases and LayerNorm", within="[0, inf)"
    )
    max_seq_length: int = _setting(
        128, "largest number of tokens in a sequence; longer ones are truncated", within="[8, 65536]"
    )
    precision: str = _setting("fp32", "precision of matrix products; weights are fp32 always", choices=PRECISIONS)
    max_train_samples: int | None = _setting(
        None, "train on this many examples, the first ones", within="[1, inf)", default_text="all"
    )
    max_eval_samples: int | None = _setting(
        None,
        "evaluate on this many examples of each split, the first ones; test splits are predicted whole",
        within="[1, inf)",
        default_text="all",
    )
