"""A tiny model folder with a vocabulary to fine-tune, and a fine-tuning run with one seed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bert_large.model.pretrained import save_model
from bert_large.prepare.vocab import SPECIAL_TOKENS, write_vocab

from tests.support.models import tiny_model
from tests.support.runs import options, run_here

LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = ("good", "bad", "the", "film", "was", "very", "no", "never")
FINETUNE_SETTINGS: dict[str, Any] = {"task": "sst2", "seed": 7, "batch_size": 4, "epochs": 3, "learning_rate": 0.01,
                                     "max_seq_length": 16, "save_every": 2}  # fmt: skip
"""A small run: `write_glue` writes 12 examples of SST-2 for training, so that 3 epochs have 9 steps."""

_TRAINING = ("seed", "seeds", "epochs", "learning_rate", "save_every", "max_train_samples")


def write_model(folder: Path, *, keep_vocab: bool = True, seed: int = 0, **changes: Any) -> Path:
    """Write and return a model_save folder: two layers of 32, tokens of single letters and a few words.

    `changes` are those of `tiny_config`. The vocabulary is also beside the folder, and without `keep_vocab` only there.
    """
    tokens = [*SPECIAL_TOKENS, *WORDS, *LETTERS, *(f"##{letter}" for letter in LETTERS), *'0123456789,"é']
    folder.parent.mkdir(parents=True, exist_ok=True)
    vocab_file = folder.parent / "vocab.txt"
    write_vocab(vocab_file, tokens)
    model = tiny_model(seed, vocab_size=len(tokens), **changes)
    save_model(folder, model, model.config, vocab_file if keep_vocab else None)
    return folder


def write_quick_model(folder: Path) -> Path:
    """Write a model that learns in few steps, with large weights and no dropout."""
    return write_model(folder, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, initializer_range=0.2)


def finetune(output_dir: Path, **values: Any) -> int:
    """Run `bert-large finetune` in this process and return its exit code."""
    return run_here("finetune", *options(output_dir=output_dir, **values))


def finetuned(output_dir: Path, **values: Any) -> dict[str, dict[str, float]]:
    """Run `bert-large finetune` with one seed and return the metrics of each split."""
    assert finetune(output_dir, **values) == 0
    (seed,) = json.loads((output_dir / "results.json").read_text())["seeds"]
    return seed["metrics"]


def without_training(values: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a run without those that `--predict-only` refuses."""
    return {name: value for name, value in values.items() if name not in _TRAINING}
