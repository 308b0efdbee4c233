"""The padded form in which both file formats store a record: fields of fixed length under the reference's names.

`input_mask` is 1 for each real token. In records of several parts, it is the number of the token's part, from 1 (as in
Krell et al. 2021, "Efficient Sequence Packing without Cross-contamination", arXiv:2107.02027). How the number of real
predictions is stored differs between the formats.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from bert_large.data.record import NO_PAIR, Record, RecordShape

TOKEN_FIELDS = ("input_ids", "input_mask", "segment_ids")
PREDICTION_FIELDS = ("masked_lm_positions", "masked_lm_ids")
LABEL_FIELD = "next_sentence_labels"
_MAX_TOKEN_ID = (1 << 31) - 1


def field_widths(shape: RecordShape) -> dict[str, int]:
    """Return the number of values of every padded field."""
    return dict.fromkeys(TOKEN_FIELDS, shape.max_seq_length) | dict.fromkeys(PREDICTION_FIELDS, shape.max_predictions)


def pad_record(record: Record, shape: RecordShape) -> dict[str, NDArray[np.int32]]:
    """Return a record's fields, zero-padded to `shape`; raises `ValueError` if the record does not fit."""
    length, predictions = len(record.input_ids), len(record.masked_ids)
    if length > shape.max_seq_length or predictions > shape.max_predictions:
        raise ValueError(f"a record of {length} tokens and {predictions} predictions does not fit {shape}")
    fields = {name: np.zeros(width, np.int32) for name, width in field_widths(shape).items()}
    fields["input_ids"][:length] = record.input_ids
    fields["input_mask"][:length] = np.searchsorted(record.part_starts, np.arange(length), side="right")
    fields["segment_ids"][:length] = record.token_type_ids
    fields["masked_lm_positions"][:predictions] = record.masked_positions
    fields["masked_lm_ids"][:predictions] = record.masked_ids
    return fields


def unpad_record(fields: Mapping[str, NDArray[np.int64]], predictions: int, next_sentence_label: int) -> Record:
    """Cut padded int64 fields to the real tokens and predictions.

    Values in the padding are ignored: generators of records leave arbitrary values there. Raises `ValueError` with
    the field and the value found if a value is out of range.
    """
    part_starts, length = _find_parts(fields["input_mask"])
    if next_sentence_label not in (0, 1, NO_PAIR):
        raise ValueError(f"{LABEL_FIELD} is {next_sentence_label}, expected 0 or 1, or {NO_PAIR} without a pair")
    if next_sentence_label != NO_PAIR and len(part_starts) > 1:
        raise ValueError(f"{LABEL_FIELD} is {next_sentence_label} in a record of {len(part_starts)} parts")
    token_type_ids = fields["segment_ids"][:length]
    if token_type_ids.min() < 0 or token_type_ids.max() > 1:
        raise ValueError(f"segment_ids has values {np.unique(token_type_ids).tolist()[:8]}, expected 0 and 1")
    positions = fields["masked_lm_positions"][:predictions]
    if predictions and (positions.min() < 0 or positions.max() >= length):
        outside = positions[(positions < 0) | (positions >= length)][0]
        raise ValueError(f"masked_lm_positions has {outside}, outside the sequence's {length} tokens")
    input_ids, masked_ids = fields["input_ids"][:length], fields["masked_lm_ids"][:predictions]
    for name, ids in (("input_ids", input_ids), ("masked_lm_ids", masked_ids)):
        if ids.size and (ids.min() < 0 or ids.max() > _MAX_TOKEN_ID):
            raise ValueError(f"{name} has {ids[(ids < 0) | (ids > _MAX_TOKEN_ID)][0]}, which is not a token id")
    return Record(
        input_ids=input_ids.astype(np.int32),
        token_type_ids=token_type_ids.astype(np.uint8),
        masked_positions=positions.astype(np.int32),
        masked_ids=masked_ids.astype(np.int32),
        next_sentence_label=next_sentence_label,
        part_starts=part_starts,
    )


def _find_parts(mask: NDArray[np.int64]) -> tuple[tuple[int, ...], int]:
    """Return the starts of a record's parts and its number of tokens, from `input_mask`."""
    length = int(np.count_nonzero(mask))
    if length == 0:
        raise ValueError("the record has no tokens (input_mask is all 0)")
    if np.all(mask[:length] == 1):
        return (0,), length
    steps = np.diff(mask[:length], prepend=0)
    if steps[0] != 1 or steps.min() < 0 or steps.max() > 1:
        raise ValueError("input_mask is not ones followed by zeros, nor the numbers of parts from 1 on")
    return tuple(np.flatnonzero(steps).tolist()), length


def count_ones(mask: NDArray, name: str) -> int:
    """Return the number of ones of a mask; raises `ValueError` unless it is ones followed by zeros."""
    count = int(np.count_nonzero(mask))
    if not np.all(mask[:count] == 1):
        raise ValueError(f"{name} is not ones followed by zeros")
    return count
