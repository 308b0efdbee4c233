"""Predictions for the masked tokens of texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from bert_large.engines.precision import Precision
from bert_large.errors import InputError
from bert_large.finetune.tokenizer import load_tokenizer
from bert_large.hugging_face.engine import apply_engine
from bert_large.inference.model import load_model, longest_input

_BATCH_TEXTS = 16


class Candidate(NamedTuple):
    """A token for a masked position, and its probability from 0 to 1."""

    token: str
    probability: float


class MaskFiller:
    """A model with a head for masked tokens, and its tokenizer."""

    def __init__(self, folder: Path, *, engine: str, precision: Precision, **vocabulary: Any) -> None:
        """Load both; `vocabulary` are the other arguments of `load_tokenizer`. Raises `InputError` without a head."""
        self._model = load_model(folder, "AutoModelForMaskedLM")
        self._tokenizer = load_tokenizer(folder, **vocabulary)
        if self._tokenizer.mask_token is None:
            raise InputError(f"CHECKPOINT_DIR {folder}: its tokenizer has no mask token; expected that of a masked LM")
        self._precision = precision
        self.engine = apply_engine(self._model, engine, precision.name)
        """A line about the engine that computes the model."""

    def __call__(self, texts: Sequence[str], top_k: int) -> Iterator[list[list[Candidate]]]:
        """Yield, for each text, the `top_k` candidates of each of its masked tokens, the most probable first.

        Every text is checked before the first one is computed: `InputError` for a text without a masked token, or with
        more tokens than the model has positions for.
        """
        rows = [self._tokens(number, text) for number, text in enumerate(texts, start=1)]
        return (
            candidates
            for start in range(0, len(rows), _BATCH_TEXTS)
            for candidates in self._fill(rows[start : start + _BATCH_TEXTS], top_k)
        )

    def _tokens(self, number: int, text: str) -> list[int]:
        ids = self._tokenizer(text)["input_ids"]
        limit = min(longest_input(self._model.config), self._tokenizer.model_max_length)
        if self._tokenizer.mask_token_id not in ids:
            raise InputError(f"text {number} is {text[:80]!r}, expected a text with {self._tokenizer.mask_token}")
        if len(ids) > limit:
            raise InputError(f"text {number} has {len(ids)} tokens, the model has positions for {limit}; shorten it")
        return ids

    @torch.inference_mode()
    def _fill(self, rows: Sequence[list[int]], top_k: int) -> list[list[list[Candidate]]]:
        batch = self._tokenizer.pad({"input_ids": list(rows)}, return_tensors="pt")
        is_mask = batch["input_ids"] == self._tokenizer.mask_token_id
        with self._precision.autocast():
            logits = self._model(**batch).logits[is_mask]
        found = logits.float().softmax(-1).topk(min(top_k, logits.shape[-1]))
        words = iter(
            [
                Candidate(token, probability)
                for token, probability in zip(self._tokenizer.convert_ids_to_tokens(ids), probabilities, strict=True)
            ]
            for ids, probabilities in zip(found.indices.tolist(), found.values.tolist(), strict=True)
        )
        return [[next(words) for _ in range(count)] for count in is_mask.sum(1).tolist()]
