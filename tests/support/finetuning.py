"""What a fine-tuning run starts from: a tiny model folder, and the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bert_large.cli import main

from tests.support.word_tokenizer import PIECES, word_tokenizer


def tiny_model_folder(folder: Path) -> Path:
    """Write a BERT of 32 hidden units in 2 layers, random weights, with a tokenizer of letters, and return `folder`."""
    import torch
    from transformers import BertConfig, BertForPreTraining

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(PIECES),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.2,
    )
    BertForPreTraining(config).save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return folder


def finetune(task: str, data_dir: Path, model: Path, output_dir: Path, **options: Any) -> dict[str, Any]:
    """Run `bert-large finetune` and return results.json."""
    words = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    arguments = ["--task", task, "--data-dir", data_dir, "--checkpoint-dir", model, "--output-dir", output_dir, *words]
    assert main(["finetune", *map(str, arguments)]) == 0
    return json.loads((output_dir / "results.json").read_text())
