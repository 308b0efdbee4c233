"""The settings that `bert-large embed` and `bert-large fill-mask` share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bert_large.config.options import option
from bert_large.finetune.settings import PRECISIONS

POOLINGS = ("mean", "cls", "pooler")
BATCH_TOKENS = 2048
"""Default of `--batch-tokens`: enough for full matrix products, few enough for the caches."""
FIELD = "text"
"""Default of `--field`."""


@dataclass(frozen=True, kw_only=True)
class InferenceOptions:
    """The model and how it is computed."""

    checkpoint_dir: Path = option(text="model_save folder, or a folder of transformers or sentence-transformers")
    vocab_file: Path | None = option(None, "vocabulary", default_text="that of the model folder")
    do_lower_case: bool | None = option(
        None,
        "convert text to lowercase and strip accents",
        default_text="as the model folder or the vocabulary says",
        deferred=True,
    )
    precision: str = option("fp32", "precision of matrix products", choices=PRECISIONS)
    engine: str = option(
        "auto",
        "native: C++ kernels; eager: the model's own PyTorch code; auto: native where it can",
        choices=("auto", "native", "eager"),
    )
