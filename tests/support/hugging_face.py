"""Inputs for Hugging Face's models, and the comparison of their results with ours."""

from __future__ import annotations

import torch
from bert_large.data.record import Record

from tests.support.records import make_records

RECORDS = make_records(11, lengths=(6, 50))
for _record in RECORDS:  # no [PAD] among real tokens: Hugging Face computes no gradient for its embedding
    _record.input_ids[_record.input_ids == 0] = 1
# Relative to the largest value of a tensor. The worst seen are 1.3e-14 in float64 and 3.4e-6 in float32.
TOLERANCES = {torch.float64: 1e-12, torch.float32: 2e-5}


def padded(records: list[Record]) -> dict[str, torch.Tensor]:
    """Return inputs of Hugging Face's models: rows padded to the longest, with a mask."""
    longest = max(len(record.input_ids) for record in records)
    rows = {name: torch.zeros(len(records), longest, dtype=torch.int64)
            for name in ("input_ids", "token_type_ids", "attention_mask")}  # fmt: skip
    for row, record in enumerate(records):
        length = len(record.input_ids)
        rows["input_ids"][row, :length] = torch.from_numpy(record.input_ids)
        rows["token_type_ids"][row, :length] = torch.from_numpy(record.token_type_ids)
        rows["attention_mask"][row, :length] = 1
    return rows


def assert_close(found: torch.Tensor, expected: torch.Tensor, name: str) -> None:
    difference = float((found - expected).detach().abs().max() / expected.detach().abs().max())
    assert difference <= TOLERANCES[found.dtype], f"{name}: {difference:.1e}"
