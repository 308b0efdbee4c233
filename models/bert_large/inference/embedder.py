"""Embeddings of texts: sorted by length, in batches of about the same number of tokens, hardly any of them padding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bert_large.data.order import cut_by_tokens
from bert_large.engines.precision import Precision
from bert_large.errors import InputError
from bert_large.finetune.tokenizer import load_tokenizer
from bert_large.hugging_face.engine import apply_engine
from bert_large.inference.model import load_model, longest_input
from bert_large.inference.pooling import Pooling, read_pooling
from bert_large.inference.settings import BATCH_TOKENS


@dataclass(frozen=True, kw_only=True)
class Embedder:
    """A model with its tokenizer, and what becomes of its hidden states."""

    model: Any
    tokenizer: Any
    pooling: Pooling
    precision: Precision
    engine: str
    """A line about the engine that computes the model."""
    max_length: int
    batch_tokens: int = BATCH_TOKENS

    @property
    def dimension(self) -> int:
        """Values of an embedding."""
        return int(self.model.config.hidden_size)

    def __call__(
        self, texts: Sequence[str], advance: Callable[[int], object] = lambda texts: None
    ) -> NDArray[np.float32]:
        """Return embeddings [texts, dimension] in the order of `texts`. `advance` gets the texts of each batch done.

        Texts are truncated to `max_length` tokens. The same texts give the same bits, with the same number of threads.
        """
        prompted = [f"{self.pooling.prompt}{text}" for text in texts]
        rows = self.tokenizer(prompted, truncation=True, max_length=self.max_length)["input_ids"] if prompted else []
        lengths = np.array([len(row) for row in rows], dtype=np.int64)
        order = np.argsort(-lengths, kind="stable")  # the longest first: too little memory is found at the start
        embeddings = np.empty((len(texts), self.dimension), np.float32)
        for cut in cut_by_tokens(lengths[order], self.batch_tokens):
            chosen = order[cut]
            embeddings[chosen] = self._embed([rows[place] for place in chosen])
            advance(len(chosen))
        return embeddings

    def _embed(self, rows: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        longest = max(map(len, rows))
        ids = torch.full((len(rows), longest), self.tokenizer.pad_token_id)
        mask = torch.zeros(len(rows), longest, dtype=torch.int64)
        for place, row in enumerate(rows):
            ids[place, : len(row)] = torch.tensor(row)
            mask[place, : len(row)] = 1
        with torch.inference_mode(), self.precision.autocast():
            return self.pooling(self.model(input_ids=ids, attention_mask=mask), mask).numpy()


def load_embedder(
    folder: Path, *, engine: str, precision: Precision, pooling: Pooling | None = None,
    max_length: int | None = None, batch_tokens: int = BATCH_TOKENS, **vocabulary: Any,
) -> Embedder:  # fmt: skip
    """Return the embedder of a model folder; `vocabulary` are the other arguments of `load_tokenizer`.

    `pooling` None: as the folder says. `max_length` None: as the folder says, or else the model's positions. Raises
    `InputError` for what the model does not have: more positions, a pooler.
    """
    pooling = read_pooling(folder) if pooling is None else pooling
    encoder = folder / pooling.transformer
    model = load_model(encoder, "AutoModel", may_lack=() if pooling.mode == "pooler" else ("pooler.",))
    if pooling.mode == "pooler" and getattr(model, "pooler", None) is None:
        raise InputError(f"--pooling is 'pooler', which {type(model).__name__} does not have; use mean or cls")
    tokenizer = load_tokenizer(encoder, **vocabulary)
    positions = min(longest_input(model.config), tokenizer.model_max_length)
    length = max_length or min(pooling.max_length or positions, positions)
    if length > positions:
        raise InputError(f"--max-length is {length}, the model has positions for {positions}")
    described = apply_engine(model, engine, precision.name)
    return Embedder(
        model=model, tokenizer=tokenizer, pooling=pooling, precision=precision, engine=described, max_length=length,
        batch_tokens=batch_tokens,
    )  # fmt: skip
