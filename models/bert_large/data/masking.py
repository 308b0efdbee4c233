"""Which tokens of a sequence are predicted, and what the input shows there: BERT's rule (arXiv:1810.04805, 3.1).

`prepare` draws masks once and stores them in the records. `DynamicMasking` replaces them by new masks for each sample
of each epoch, as RoBERTa does (Liu et al. 2019, arXiv:1907.11692, 4.1).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bert_large.data.hashing import random_numbers, splitmix64
from bert_large.data.record import Record
from bert_large.errors import InputError

MASKED_LM_PROB = 0.15
"""Fraction of a sequence's tokens that is predicted; special tokens are counted but never predicted."""
# 80% of the predicted tokens are shown as [MASK]. Of the others, half are shown unchanged, half as a random word.
MASK_PROBABILITY = 0.8
KEEP_PROBABILITY = 0.5

_STREAM = int.from_bytes(b"masking", "big")
"""Makes these random numbers independent of those of order and dropout, which have the same seed."""
_NUMBERS_PER_TOKEN = 3
_CHOICE, _KIND, _WORD = range(_NUMBERS_PER_TOKEN)
"""Uses of a token's random numbers: whether it is chosen, how it is shown, and the random word."""


@dataclass(frozen=True, kw_only=True)
class DynamicMasking:
    """Draws masks as a pure function of (seed, sample): ranks, micro-batches and restarts do not change them.

    Sample numbers continue through all epochs, so every epoch has other masks. `vocab_size` is the number of words in
    the vocabulary. As in MLCommons' script, a random word can be any of them, including [PAD] and other special ones.
    """

    seed: int
    max_predictions: int
    vocab_size: int
    cls_id: int
    sep_id: int
    mask_id: int

    @property
    def vocabulary(self) -> str:
        """The properties of the vocabulary that the masks depend on, in words."""
        return f"{self.vocab_size} words, [CLS] {self.cls_id}, [SEP] {self.sep_id}, [MASK] {self.mask_id}"

    def check(self, record: Record) -> None:
        """Raise `InputError` for a record made with another vocabulary: one that is not [CLS] … [SEP]."""
        found = int(record.input_ids[0]), int(record.input_ids[-1])
        if found != (self.cls_id, self.sep_id):
            raise InputError(
                f"--dynamic-masking: the first record begins with token {found[0]} and ends with {found[1]}, expected "
                f"[CLS] {self.cls_id} and [SEP] {self.sep_id} of --vocab-file; give the vocabulary that the records "
                "were made with"
            )

    def draw(self, records: Sequence[Record], samples: Sequence[int] | NDArray[np.int64]) -> list[Record]:
        """Return the records with new masks; `samples` are the numbers of the samples that they are in the run."""
        # All records are handled at once, as one array of tokens with the index of the record that each belongs to.
        lengths = np.array([len(record.input_ids) for record in records])
        starts = np.cumsum(lengths) - lengths
        owners = np.repeat(np.arange(len(records)), lengths)
        counters = _NUMBERS_PER_TOKEN * (np.arange(len(owners)) - starts[owners])
        stream = splitmix64(self.seed ^ _STREAM)
        keys = np.array([splitmix64(stream ^ int(sample)) for sample in samples], dtype=np.uint64)[owners]

        # Restore the original tokens at the masks that the records were made with.
        ids = np.concatenate([record.input_ids for record in records])
        masked = [record.masked_positions + start for record, start in zip(records, starts, strict=True)]
        ids[np.concatenate(masked)] = np.concatenate([record.masked_ids for record in records])

        # Choose the `wanted` first of each record's candidates in a random order: sorting by (record, random number)
        # shuffles the tokens within every record, and `places` is each token's place among those of its record.
        candidates = np.flatnonzero((ids != self.cls_id) & (ids != self.sep_id))
        order = np.lexsort((random_numbers(keys[candidates], counters[candidates] + _CHOICE), owners[candidates]))
        candidates = candidates[order]
        available = np.bincount(owners[candidates], minlength=len(records))
        places = np.arange(len(candidates)) - np.repeat(np.cumsum(available) - available, available)
        wanted = np.clip(np.rint(lengths * MASKED_LM_PROB), 1, self.max_predictions)
        chosen = np.sort(candidates[places < np.repeat(wanted, available)])

        labels = ids[chosen]
        ids[chosen] = self._shown(labels, keys[chosen], counters[chosen])
        ends = np.searchsorted(chosen, starts[1:])
        return [
            dataclasses.replace(
                record,
                input_ids=record_ids,
                masked_positions=(record_chosen - start).astype(np.int32),
                masked_ids=record_labels,
            )
            for record, record_ids, record_chosen, record_labels, start in zip(
                records, np.split(ids, starts[1:]), np.split(chosen, ends), np.split(labels, ends), starts, strict=True
            )
        ]

    def _shown(
        self, labels: NDArray[np.int32], keys: NDArray[np.uint64], counters: NDArray[np.int64]
    ) -> NDArray[np.int32]:
        """Return the token ids shown in the input in place of `labels`."""
        words = random_numbers(keys, counters + _WORD) % np.uint64(self.vocab_size)
        kinds = (random_numbers(keys, counters + _KIND) >> np.uint64(11)) * 2.0**-53  # uniform in [0, 1)
        kept_below = MASK_PROBABILITY + (1 - MASK_PROBABILITY) * KEEP_PROBABILITY
        shown = np.where(kinds < kept_below, labels, words.astype(np.int32))
        return np.where(kinds < MASK_PROBABILITY, np.int32(self.mask_id), shown)
