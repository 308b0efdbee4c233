"""Which tokens of a sequence are predicted, and what the input shows there: BERT's rule (arXiv:1810.04805, 3.1).

`prepare` draws masks once and stores them in the records. `DynamicMasking` replaces them by new masks for each sample
of each epoch, as RoBERTa does (Liu et al. 2019, arXiv:1907.11692, 4.1). It can mask more than 15% of the tokens (Wettig
et al. 2022, "Should You Mask 15% in Masked Language Modeling?", arXiv:2202.08005, find 40% better for models of
BERT-large's size), and it chooses units of one of three kinds:

- `token`: single tokens, as BERT does;
- `word`: all tokens of a word, as in Google's whole-word models of 2019;
- `span`: up to ten consecutive words (SpanBERT: Joshi et al. 2020, arXiv:1907.10529, 3.1). The number of words has a
  geometric distribution, and all tokens of a span are shown in the same way: as [MASK], unchanged, or as random words.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bert_large.config.training import MASKED_LM_PROB, MASKING_UNITS
from bert_large.data.hashing import random_numbers, splitmix64
from bert_large.data.record import Record
from bert_large.errors import InputError

# 80% of the predicted tokens are shown as [MASK]. Of the others, half are shown unchanged, half as a random word.
MASK_PROBABILITY = 0.8
KEEP_PROBABILITY = 0.5

TOKEN, _, SPAN = MASKING_UNITS
_SPAN_WORDS = np.arange(1, 11)
_SPAN_PROBABILITY = 0.2
_SPAN_CDF = np.cumsum((1 - _SPAN_PROBABILITY) ** (_SPAN_WORDS - 1))
_SPAN_CDF /= _SPAN_CDF[-1]  # normalized as in SpanBERT's code, which gives the mean of 3.8 words of the paper

_STREAM = int.from_bytes(b"masking", "big")
"""Makes these random numbers independent of those of order and dropout, which have the same seed."""
_SPAN_STREAM = int.from_bytes(b"spans", "big")
"""Makes the lengths of spans independent of the other random numbers."""
_NUMBERS_PER_TOKEN = 3
_CHOICE, _KIND, _WORD = range(_NUMBERS_PER_TOKEN)
"""Uses of a token's random numbers: whether it is chosen, how it is shown, and the random word."""


@dataclass(frozen=True, kw_only=True)
class DynamicMasking:
    """Draws masks as a pure function of (seed, sample): ranks, micro-batches and restarts do not change them.

    Sample numbers continue through all epochs, so every epoch has other masks. `vocab_size` is the number of words in
    the vocabulary. As in MLCommons' script, a random word can be any of them, including [PAD] and other special ones.
    `rate` is the share of a sequence's tokens that is predicted, at most `max_predictions` of them. A word or span that
    would exceed that is left out or shortened.
    """

    seed: int
    max_predictions: int
    vocab_size: int
    cls_id: int
    sep_id: int
    mask_id: int
    rate: float = MASKED_LM_PROB
    unit: str = TOKEN
    """One of `MASKING_UNITS`."""
    continues_word: NDArray[np.bool_] | None = None
    """[vocab_size] whether a token continues the word of the token before it (`##ing`); not needed for tokens."""

    @property
    def description(self) -> str:
        """The properties that the masks depend on, in words; those of an option that is not used are left out."""
        text = f"{self.vocab_size} words, [CLS] {self.cls_id}, [SEP] {self.sep_id}, [MASK] {self.mask_id}"
        if self.continues_word is not None:
            text += f", {int(self.continues_word.sum())} of them continue a word"
        options = [f"rate {self.rate:g}"] * (self.rate != MASKED_LM_PROB) + [f"unit {self.unit}"] * (self.unit != TOKEN)
        return "; ".join([text, *options])

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

        order = random_numbers(keys, counters + _CHOICE)
        wanted = np.clip(np.rint(lengths * self.rate), 1, self.max_predictions).astype(np.int64)
        candidates = np.flatnonzero((ids != self.cls_id) & (ids != self.sep_id))
        if self.unit == TOKEN:
            chosen = _choose_tokens(candidates, owners[candidates], order, wanted)
            anchors = chosen
        else:
            chosen, anchors = self._choose_words(ids, candidates, owners, keys, counters, wanted)
        labels = ids[chosen]
        ids[chosen] = self._shown(labels, keys[chosen], counters[chosen], counters[anchors])
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

    def _choose_words(
        self, ids: NDArray[np.int32], candidates: NDArray[np.int64], owners: NDArray[np.int64],
        keys: NDArray[np.uint64], counters: NDArray[np.int64], wanted: NDArray[np.int64],
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:  # fmt: skip
        """Choose words or spans in a random order until each record has its `wanted` tokens.

        Returns the chosen tokens in ascending order, and for each the token that decides how it is shown: the first
        token of its span, or itself for words.
        """
        assert self.continues_word is not None
        # A token starts a word unless it is a continuation right after another candidate of the same record.
        follows = np.diff(candidates, prepend=-2) == 1
        follows &= np.diff(owners[candidates], prepend=-1) == 0
        starts = ~(self.continues_word[ids[candidates]] & follows)
        word_of = np.cumsum(starts) - 1
        firsts, sizes = candidates[starts], np.bincount(word_of)
        spans = np.ones(len(firsts), np.int64)
        if self.unit == SPAN:
            uniform = _uniform(keys[firsts] ^ np.uint64(splitmix64(_SPAN_STREAM)), counters[firsts])
            spans = _SPAN_WORDS[np.searchsorted(_SPAN_CDF, uniform, side="right")]
        order = np.lexsort((random_numbers(keys[firsts], counters[firsts] + _CHOICE), owners[firsts]))
        anchors = _grow_spans(order, spans, sizes, owners[firsts], follows[starts], wanted)
        is_chosen = anchors[word_of] >= 0
        chosen = candidates[is_chosen]
        return chosen, firsts[anchors[word_of[is_chosen]]] if self.unit == SPAN else chosen

    def _shown(
        self, labels: NDArray[np.int32], keys: NDArray[np.uint64], counters: NDArray[np.int64],
        kind_counters: NDArray[np.int64],
    ) -> NDArray[np.int32]:  # fmt: skip
        """Return the token ids shown in the input in place of `labels`."""
        words = random_numbers(keys, counters + _WORD) % np.uint64(self.vocab_size)
        kinds = _uniform(keys, kind_counters + _KIND)
        kept_below = MASK_PROBABILITY + (1 - MASK_PROBABILITY) * KEEP_PROBABILITY
        shown = np.where(kinds < kept_below, labels, words.astype(np.int32))
        return np.where(kinds < MASK_PROBABILITY, np.int32(self.mask_id), shown)


def _uniform(keys: NDArray[np.uint64], counters: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return random numbers in [0, 1)."""
    return (random_numbers(keys, counters) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _choose_tokens(
    candidates: NDArray[np.int64], owners: NDArray[np.int64], order: NDArray[np.uint64], wanted: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the `wanted` first of each record's candidates in a random order, sorted by position.

    Sorting by (record, random number) shuffles the tokens within every record, and `places` is each token's place among
    those of its record.
    """
    candidates = candidates[np.lexsort((order[candidates], owners))]
    available = np.bincount(owners, minlength=len(wanted))
    places = np.arange(len(candidates)) - np.repeat(np.cumsum(available) - available, available)
    return np.sort(candidates[places < np.repeat(wanted, available)])


def _grow_spans(
    order: NDArray[np.int64], spans: NDArray[np.int64], sizes: NDArray[np.int64], owners: NDArray[np.int64],
    follows: NDArray[np.bool_], wanted: NDArray[np.int64],
) -> NDArray[np.int64]:  # fmt: skip
    """Choose words, in `order`: each with the words after it, up to the length in `spans`.

    A span ends before a chosen word, at the end of its part (`follows` is False for the first word of one), and before
    a word that would make more than the `wanted` tokens of its record; only the record's first word may have more, so
    that every record has a prediction. Returns the first word of each word's span, -1 for words that are not chosen.
    """
    span_of, left = [-1] * len(sizes), wanted.tolist()
    follow, size_of, owner_of = follows.tolist(), sizes.tolist(), owners.tolist()
    for first, length in zip(order.tolist(), spans[order].tolist(), strict=True):
        record = owner_of[first]
        for word in range(first, min(first + length, len(span_of))):
            ends = word > first and not follow[word]
            if ends or span_of[word] >= 0 or (size_of[word] > left[record] and left[record] < wanted[record]):
                break
            span_of[word] = first
            left[record] -= size_of[word]
    return np.array(span_of, np.int64)
