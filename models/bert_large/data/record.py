"""One pretraining record: a masked pair of segments with its labels, real tokens only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bert_large.errors import DataError


@dataclass(frozen=True, slots=True)
class Record:
    """A sequence [CLS] A [SEP] B [SEP] without padding.

    `input_ids` int32 [length], `token_type_ids` uint8 [length] (0 for A, 1 for B), `masked_positions` int32
    [predictions] (indices into the sequence), `masked_ids` int32 [predictions] (the original tokens there),
    `next_sentence_label` 1 when B is random, 0 when it follows A.
    """

    input_ids: NDArray[np.int32]
    token_type_ids: NDArray[np.uint8]
    masked_positions: NDArray[np.int32]
    masked_ids: NDArray[np.int32]
    next_sentence_label: int


@dataclass(frozen=True, slots=True)
class RecordShape:
    """What every record of a data set has on disk: slots for tokens and slots for predictions."""

    max_seq_length: int
    max_predictions: int


@dataclass(frozen=True, slots=True)
class RecordLimits:
    """What a model has room for: a record beyond it cannot be trained on."""

    vocab_size: int
    max_positions: int

    def check(self, record: Record) -> None:
        """Raise `ValueError` with what a record has too much of."""
        length = len(record.input_ids)
        if length > self.max_positions:
            raise ValueError(
                f"{length} tokens, the model has {self.max_positions} positions; raise max_position_embeddings in the "
                "model configuration or use shorter records"
            )
        for name, ids in (("input_ids", record.input_ids), ("masked_lm_ids", record.masked_ids)):
            if ids.size and (largest := int(ids.max())) >= self.vocab_size:
                raise ValueError(
                    f"{name} has token id {largest}, the model's vocabulary has {self.vocab_size}; the record is "
                    "damaged, or was made with a larger vocabulary than the model configuration's vocab_size"
                )


class BadRecordError(DataError):
    """One record is bad; the others of its shard can be read."""


class BadRecords:
    """The bad records found so far, each once; one more than `most` of them is an error."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.found: dict[str, None] = {}
        """What is wrong with each, in the order found."""

    def add(self, error: BadRecordError) -> bool:
        """Note a bad record and tell whether it is a new one. Raises `DataError` when there are too many."""
        if self.most == 0:
            raise error
        is_new = str(error) not in self.found
        self.found[str(error)] = None
        if len(self.found) > self.most:
            raise DataError(f"{error}; with it more than --max-bad-records {self.most} records are bad")
        return is_new
