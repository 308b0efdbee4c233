"""One pretraining record: a masked sequence with its labels, real tokens only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bert_large.errors import DataError

NO_PAIR = -1
"""Next-sentence label of a record without a pair of segments."""


@dataclass(frozen=True, slots=True)
class Record:
    """A sequence without padding: a pair [CLS] A [SEP] B [SEP], or parts of documents, each [CLS] … [SEP].

    `input_ids` int32 [length], `token_type_ids` uint8 [length] (0 for A, 1 for B), `masked_positions` int32
    [predictions] (indices into the sequence), `masked_ids` int32 [predictions] (the original tokens there),
    `next_sentence_label` 1 when B is random, 0 when it follows A, `NO_PAIR` if there are no segments A and B.
    Positions are counted, and attention is computed, within each part; `part_starts` are the indices of their first
    tokens.
    """

    input_ids: NDArray[np.int32]
    token_type_ids: NDArray[np.uint8]
    masked_positions: NDArray[np.int32]
    masked_ids: NDArray[np.int32]
    next_sentence_label: int
    part_starts: tuple[int, ...] = (0,)

    @property
    def longest_part(self) -> int:
        """Number of tokens of the longest part."""
        if len(self.part_starts) == 1:  # this is called for every record of a dataset
            return len(self.input_ids)
        return int(np.diff([*self.part_starts, len(self.input_ids)]).max())


@dataclass(frozen=True, slots=True)
class RecordShape:
    """Padded length of every record of a dataset on disk: slots for tokens and slots for predictions."""

    max_seq_length: int
    max_predictions: int


@dataclass(frozen=True, slots=True)
class RecordLimits:
    """The largest record that a model can be trained on."""

    vocab_size: int
    max_positions: int

    def include(self, largest_id: int, length: int) -> bool:
        """Return whether records up to this token id and number of tokens are within the limits."""
        return largest_id < self.vocab_size and length <= self.max_positions

    def check(self, record: Record) -> None:
        """Raise `ValueError` if a record exceeds the model's positions or vocabulary."""
        length = record.longest_part
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
    """One record is damaged; the other records of its shard can be read."""


class BadRecords:
    """The distinct bad records found so far, of which at most `most` are allowed."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.found: dict[str, None] = {}
        """The error message of each, in the order found."""

    def add(self, error: BadRecordError) -> bool:
        """Add a bad record; return whether it is new. Raises `DataError` if there are more than `most`."""
        if self.most == 0:
            raise error
        is_new = str(error) not in self.found
        self.found[str(error)] = None
        if len(self.found) > self.most:
            raise DataError(f"{error}; with it more than --max-bad-records {self.most} records are bad")
        return is_new
