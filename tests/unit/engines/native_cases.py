"""Operations on random values, on which tests compare the native engine with the eager engine."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from bert_large.data.batch import RaggedBatch, select_tokens
from bert_large.engines.eager import EagerEngine
from bert_large.engines.native import NativeEngine
from bert_large.model.dropout import DropoutSite
from bert_large.model.operations import Operations
from bert_large.optim.lamb import LambArrays, LambSettings

from tests.support.operations import PROJECTIONS, Case, assert_close, batch_of, dense_values, draw, layer, norm_values

EAGER = EagerEngine()
SITE, OTHER_SITE = DropoutSite(0.1, 0x12345678), DropoutSite(0.3, 0xFEDCBA98)
DROPOUT = pytest.mark.parametrize("dropout", [False, True], ids=["", "dropout"])
TOLERANCE = 1e-5
"""Relative to the largest value of a tensor."""
RAGGED = [[1], [1, 1, 1], [5, 17, 128, 1], [63, 64, 65], [512, 1, 300, 33]]
LENGTHS = pytest.mark.parametrize("lengths", RAGGED, ids=str)


def embedding_case(lengths: list[int], hidden: int = 40, dropout: bool = True) -> Case:
    batch = batch_of(lengths)
    values = {
        "words": draw(100, hidden, seed=1), "positions": draw(512, hidden, seed=2), "types": draw(2, hidden, seed=3),
        **norm_values("norm", hidden, 4),
    }  # fmt: skip

    def apply(engine: Operations, given: Mapping[str, torch.Tensor]) -> torch.Tensor:
        tables = given["words"], given["positions"], given["types"]
        return engine.embed_norm_dropout(batch, *tables, layer(given, "norm"), SITE if dropout else None)

    return Case(values, apply)


def attention_case(
    lengths: list[int], hidden: int = 40, heads: int = 5, dropout: bool = True, batch: RaggedBatch | None = None,
    read: bool = False,
) -> Case:  # fmt: skip
    batch = batch_of(lengths) if batch is None else batch
    rows = torch.unique(torch.cat([batch.cu_seqlens[:-1].long(), batch.masked_positions]))
    selection = select_tokens(batch, rows) if read else None
    values = {"hidden": draw(batch.tokens, hidden, seed=1), **norm_values("norm", hidden, 6)}
    for seed, name in enumerate(("query", "key", "value", "output"), start=2):
        values |= dense_values(name, hidden, hidden, seed)
    probabilities, output = (SITE, OTHER_SITE) if dropout else (None, None)

    def apply(engine: Operations, given: Mapping[str, torch.Tensor]) -> torch.Tensor:
        query, key, value = (layer(given, name) for name in PROJECTIONS)
        return engine.attention_block(
            batch, given["hidden"], query, key, value, heads, probabilities,
            layer(given, "output"), layer(given, "norm"), output, selection,
        )  # fmt: skip

    return Case(values, apply)


def feed_forward_case(
    lengths: list[int], hidden: int = 40, wide: int = 72, activation: str = "gelu", dropout: bool = True
) -> Case:
    batch = batch_of(lengths)
    values = {
        "hidden": draw(batch.tokens, hidden, seed=1), **dense_values("intermediate", hidden, wide, 2),
        **dense_values("output", wide, hidden, 3), **norm_values("norm", hidden, 4),
    }  # fmt: skip

    def apply(engine: Operations, given: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return engine.feed_forward_block(
            batch, given["hidden"], layer(given, "intermediate"), activation, layer(given, "output"),
            layer(given, "norm"), OTHER_SITE if dropout else None,
        )  # fmt: skip

    return Case(values, apply)


def head_case(masked: int, vocab_size: int = 100, hidden: int = 40, activation: str = "gelu", tokens: int = 64) -> Case:
    """Masked positions are random, so some occur more than once."""
    generator = torch.Generator().manual_seed(5)
    batch = dataclasses.replace(
        batch_of([tokens]),
        masked_positions=torch.randint(0, tokens, (masked,), generator=generator),
        masked_labels=torch.randint(0, vocab_size, (masked,), generator=generator),
    )
    values = {
        "hidden": draw(tokens, hidden, seed=1), **dense_values("transform", hidden, hidden, 2),
        **norm_values("norm", hidden, 3), "words": draw(vocab_size, hidden, seed=5, spread=0.3),
        "bias": draw(vocab_size, seed=6),
    }  # fmt: skip

    def apply(engine: Operations, given: Mapping[str, torch.Tensor]) -> torch.Tensor:
        loss, correct = engine.masked_head(
            batch, given["hidden"], layer(given, "transform"), activation, layer(given, "norm"), given["words"],
            given["bias"],
        )  # fmt: skip
        assert not correct.requires_grad and correct.dtype == torch.int64
        return loss

    return Case(values, apply)


CASES: dict[str, Callable[[], Case]] = {
    "embedding": lambda: embedding_case([5, 17, 40, 1]),
    "attention": lambda: attention_case([5, 17, 40, 1]),
    "attention, some rows": lambda: attention_case([5, 17, 40, 1], read=True),
    "feed forward": lambda: feed_forward_case([5, 17, 40, 1]),
    "masked head": lambda: head_case(23),
}
every_case = pytest.mark.parametrize("case", [make() for make in CASES.values()], ids=list(CASES))


def check(native: NativeEngine, case: Case, **options: Any) -> None:
    found = case.results(native, torch.float32, **options)
    assert {value.dtype for value in found.values()} == {torch.float32}
    assert_close(found, case.results(EAGER, torch.float64, **options), TOLERANCE)


def arrays_of(weight: torch.Tensor) -> LambArrays:
    gradient = weight.grad if weight.grad is not None else torch.zeros_like(weight)
    return LambArrays(weight, gradient, torch.zeros_like(weight), torch.zeros_like(weight))


def settings(step: int, *, rate: float = 0.01, scale: float = 1.0, adapt: bool = True) -> LambSettings:
    return LambSettings(
        rate=rate, beta_1=0.9, beta_2=0.999, epsilon=1e-6, weight_decay=0.01, gradient_scale=scale, step=step,
        adapt=adapt,
    )  # fmt: skip
