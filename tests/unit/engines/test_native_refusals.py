"""The native engine's kernels refuse wrong types, shapes, indices and layouts, instead of reading beyond memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from bert_large.engines.native import NativeEngine
from bert_large.model.dropout import DropoutSite
from bert_large.optim.lamb import LambArrays

from tests.support.operations import Case, Values, batch_of, layer
from tests.unit.engines.native_cases import CASES, attention_case, head_case, settings


def refusals() -> Iterator[Any]:
    """Yield a case, the name of a value, a change that makes it wrong, and words that the error must have."""
    attention, feed_forward, embedding, head = (make() for make in (CASES[name] for name in (
        "attention", "feed forward", "embedding", "masked head")))  # fmt: skip
    yield attention, "hidden", lambda value: value.double(), "expected"
    yield attention, "query.bias", lambda value: value.double(), "bias.*Double.*Float"
    yield attention, "value.bias", lambda value: value[:-1], r"bias.*\[119\].*\[120\]"
    yield attention, "norm.weight", lambda value: value[:-1], r"weight.*\[39\].*\[40\]"
    yield feed_forward, "intermediate.bias", lambda value: value[:-1], r"bias.*\[71\].*\[72\]"
    yield feed_forward, "output.bias", lambda value: value.half(), "dense_bias.*Half.*Float"
    yield embedding, "types", lambda value: value[:, :-1], "token_types"
    yield embedding, "words", lambda value: value.t().contiguous().t(), "words.*contiguous"
    yield embedding, "words", lambda value: value[:10], r"token id \d+ at \d+.*10"
    yield embedding, "positions", lambda value: value[:10], "position 10 at 15.*10"
    yield embedding, "types", lambda value: value[:1], r"token type 1 at \d+.*1"
    yield head, "bias", lambda value: value[:-1], r"bias.*\[99\].*\[100\]"


@pytest.mark.parametrize("wrong", list(refusals()), ids=lambda wrong: f"{wrong[1]}: {wrong[3]}")
def test_wrong_inputs_are_refused(native: NativeEngine, wrong: tuple[Case, str, Any, str]) -> None:
    case, name, change, message = wrong
    leaves: Values = case.leaves(torch.float32)
    leaves[name] = change(leaves[name].detach())
    with pytest.raises((RuntimeError, IndexError), match=message):
        case.forward(native, leaves, torch.float32)


def test_labels_outside_of_the_vocabulary_are_refused(native: NativeEngine) -> None:
    batch = dataclasses.replace(batch_of([64]), masked_positions=torch.arange(2), masked_labels=torch.tensor([7, 100]))
    leaves = head_case(1).leaves(torch.float32)
    parts = (leaves["hidden"], layer(leaves, "transform"), "gelu", layer(leaves, "norm"))
    with pytest.raises(IndexError, match=r"label 100.*100"):
        native.masked_head(batch, *parts, leaves["words"], leaves["bias"])


@pytest.mark.parametrize(
    "changes",
    [
        {"cu_seqlens": torch.tensor([0, 4, 13], dtype=torch.int32)},
        {"cu_seqlens": torch.tensor([0, 4], dtype=torch.int32)},
        {"cu_seqlens": torch.tensor([0, 9, 4], dtype=torch.int32)},
        {"cu_seqlens": torch.tensor([0, 4, 9])},
        {"samples": torch.tensor([1])},
        {"sequence_ids": torch.tensor([0] * 8)},
        {"sequence_ids": torch.tensor([0] * 8 + [2])},
    ],
    ids=str,
)
def test_batches_that_do_not_fit_are_refused(native: NativeEngine, changes: dict[str, Any]) -> None:
    batch = dataclasses.replace(batch_of([4, 5]), **changes)
    case = attention_case([4, 5], batch=batch)
    with pytest.raises((RuntimeError, IndexError), match=r"cu_seqlens|samples|sequence"):
        case.forward(native, case.leaves(torch.float32), torch.float32)


def test_lamb_refuses_wrong_arrays(native: NativeEngine) -> None:
    weight = torch.zeros(4)
    for wrong, message in (
        (torch.zeros(5), r"\[5\].*\[4\]"),
        (torch.zeros(4).double(), "Double.*Float"),
        (torch.zeros(8)[::2], "contiguous"),
    ):
        with pytest.raises(RuntimeError, match=message):
            native.lamb([LambArrays(weight, wrong, torch.zeros(4), torch.zeros(4))], settings(1))


@pytest.mark.parametrize("probability", [-0.5, 1.0, float("nan")])
def test_a_probability_out_of_range_is_refused(native: NativeEngine, probability: float) -> None:
    batch, values = batch_of([4]), attention_case([4]).leaves(torch.float32)
    tables = torch.ones(100, 40), torch.ones(512, 40), torch.ones(2, 40)
    with pytest.raises(RuntimeError, match="probability"):
        native.embed_norm_dropout(batch, *tables, layer(values, "norm"), DropoutSite(probability, 1))
