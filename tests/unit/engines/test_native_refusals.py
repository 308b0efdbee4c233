"""What the native engine's kernels refuse: wrong types, shapes, indices and layouts, rather than read beyond memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from bert_large.engines.native import NativeEngine
from bert_large.optim.lamb import LambArrays

from tests.support.operations import Case, Values, batch_of, layer
from tests.unit.engines.native_cases import CASES, attention_case, head_case, settings


def refusals() -> Iterator[Any]:
    """Each a case, a value's name, its wrong form, and the message."""
    attention, feed_forward, embedding, head = (make() for make in (CASES[name] for name in (
        "attention", "feed forward", "embedding", "masked head")))  # fmt: skip
    yield attention, "hidden", lambda value: value.double(), "expected"
    yield attention, "query.bias", lambda value: value.double(), "bias is of type Double, expected Float"
    yield attention, "value.bias", lambda value: value[:-1], r"bias has shape \[119\], expected \[120\]"
    yield attention, "norm.weight", lambda value: value[:-1], r"weight has shape \[39\], expected \[40\]"
    yield feed_forward, "intermediate.bias", lambda value: value[:-1], r"bias has shape \[71\], expected \[72\]"
    yield feed_forward, "output.bias", lambda value: value.half(), "dense_bias is of type Half, expected Float"
    yield embedding, "types", lambda value: value[:, :-1], r"token_types .*expected"
    yield embedding, "words", lambda value: value.t().contiguous().t(), "words is not contiguous"
    yield embedding, "words", lambda value: value[:10], r"token id \d+ at \d+ is outside of its table of 10"
    yield embedding, "positions", lambda value: value[:10], "position 10 at 15 is outside of its table of 10"
    yield embedding, "types", lambda value: value[:1], r"token type 1 at \d+ is outside of its table of 1"
    yield head, "bias", lambda value: value[:-1], r"bias\w* has shape \[99\], expected \[100\]"


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
    with pytest.raises(IndexError, match="label 100 is outside of the vocabulary of 100"):
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
    """Rather than read beyond memory's end."""
    batch = dataclasses.replace(batch_of([4, 5]), **changes)
    case = attention_case([4, 5], batch=batch)
    with pytest.raises((RuntimeError, IndexError), match=r"cu_seqlens|samples|sequence"):
        case.forward(native, case.leaves(torch.float32), torch.float32)


def test_lamb_refuses_wrong_arrays(native: NativeEngine) -> None:
    weight = torch.zeros(4)
    for wrong, message in (
        (torch.zeros(5), r"shape \[5\], expected \[4\]"),
        (torch.zeros(4).double(), "Double, expected Float"),
        (torch.zeros(8)[::2], "not contiguous"),
    ):
        with pytest.raises(RuntimeError, match=message):
            native.lamb([LambArrays(weight, wrong, torch.zeros(4), torch.zeros(4))], settings(1))
