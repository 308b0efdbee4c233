"""Something to fine-tune: a tiny model folder with a vocabulary."""

from __future__ import annotations

from pathlib import Path

from bert_large.prepare.vocab import SPECIAL_TOKENS, write_vocab
from bert_large.train.checkpoint import save_model

from tests.support.models import tiny_model

LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = ("good", "bad", "the", "film", "was", "very", "no", "never")


def write_model(folder: Path, *, keep_vocab: bool = True, seed: int = 0) -> Path:
    """Write a model_save folder: two layers of 32, word pieces of single letters and a few words; return it.

    Without `keep_vocab` the vocabulary lies beside the folder alone, as `vocab.txt`.
    """
    tokens = [*SPECIAL_TOKENS, *WORDS, *LETTERS, *(f"##{letter}" for letter in LETTERS), *'0123456789,"é']
    folder.parent.mkdir(parents=True, exist_ok=True)
    vocab_file = folder.parent / "vocab.txt"
    write_vocab(vocab_file, tokens)
    model = tiny_model(seed, vocab_size=len(tokens))
    save_model(folder, model, model.config, vocab_file if keep_vocab else None)
    return folder
