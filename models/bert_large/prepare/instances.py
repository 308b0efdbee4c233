"""Documents to masked sequences: the pretraining tasks of BERT (Devlin et al. 2018, arXiv:1810.04805).

Records of pairs equal those of MLCommons' `create_pretraining_data`, one by one and in the same order. That requires
the same random draws in the same order: any change in when or how `rng` is called changes every record after it.
"""

from __future__ import annotations

import dataclasses
from array import array
from collections.abc import Iterator
from random import Random
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bert_large.data.masking import KEEP_PROBABILITY, MASK_PROBABILITY
from bert_large.data.record import Record
from bert_large.prepare.documents import Documents
from bert_large.prepare.packing import Packed, pack
from bert_large.prepare.settings import MIN_SEGMENT_PAIR, PACKED, SEPARATORS, InstanceSettings
from bert_large.prepare.vocab import Vocabulary

KEEP = -1  # instead of an id: the input shows the token itself
RANDOM_DOCUMENT_TRIES = 10


class SegmentPair(NamedTuple):
    """Two ranges of `Documents.tokens`, and whether B is from a random place (otherwise it follows A)."""

    a_start: int
    a_stop: int
    b_start: int
    b_stop: int
    is_random_next: bool

    @property
    def length(self) -> int:
        """Number of tokens, with [CLS] and both [SEP]."""
        return self.a_stop - self.a_start + self.b_stop - self.b_start + SEPARATORS

    def maskable(self) -> list[int]:
        """Return the positions of all tokens but [CLS] and [SEP]."""
        separator = self.a_stop - self.a_start + 1
        return [*range(1, separator), *range(separator + 1, self.length - 1)]

    def lay_out(self, tokens: NDArray[np.int32], vocabulary: Vocabulary) -> Record:
        """Return [CLS] A [SEP] B [SEP] as a record without masks."""
        separator, length = self.a_stop - self.a_start + 1, self.length
        input_ids = np.empty(length, dtype=np.int32)
        input_ids[0] = vocabulary.cls_id
        input_ids[1:separator] = tokens[self.a_start : self.a_stop]
        input_ids[separator] = input_ids[-1] = vocabulary.sep_id
        input_ids[separator + 1 : -1] = tokens[self.b_start : self.b_stop]
        token_type_ids = np.zeros(length, dtype=np.uint8)
        token_type_ids[separator + 1 :] = 1
        none = np.empty(0, dtype=np.int32)
        return Record(input_ids, token_type_ids, none, none, int(self.is_random_next))


class Instance(NamedTuple):
    """A sequence, its masked positions in ascending order, and the ids, or `KEEP`, to show there.

    The tokens stay in `Documents`, to save memory: each of them is part of about `dupe_factor` instances.
    """

    text: SegmentPair | Packed
    masked_positions: array[int]
    masked_inputs: array[int]


def create_instances(documents: Documents, vocabulary: Vocabulary, settings: InstanceSettings) -> list[Instance]:
    """Return the instances of one file's documents, in the order of their records."""
    rng = Random(settings.random_seed)
    boundaries = list(documents.boundaries)
    rng.shuffle(boundaries)
    instances = [
        _mask(text, vocabulary, settings, rng)  # sequences come lazily: its draws are between those of two of them
        for _ in range(settings.dupe_factor)
        for text in _sequences(boundaries, settings, rng)
    ]
    rng.shuffle(instances)
    return instances


def make_record(instance: Instance, documents: Documents, vocabulary: Vocabulary) -> Record:
    """Return an instance as a record with its masks and labels."""
    record = instance.text.lay_out(documents.tokens, vocabulary)
    input_ids = record.input_ids
    masked_positions = np.array(instance.masked_positions, dtype=np.int32)
    masked_inputs = np.array(instance.masked_inputs, dtype=np.int32)
    masked_ids = input_ids[masked_positions]
    input_ids[masked_positions] = np.where(masked_inputs == KEEP, masked_ids, masked_inputs)
    return dataclasses.replace(record, masked_positions=masked_positions, masked_ids=masked_ids)


def _sequences(
    boundaries: list[list[int]], settings: InstanceSettings, rng: Random
) -> Iterator[SegmentPair] | Iterator[Packed]:
    """Return the sequences of one pass over the documents; packed ones have the documents in a new order each time."""
    if settings.sequences == PACKED:
        rng.shuffle(boundaries)
        return pack(((starts[0], starts[-1]) for starts in boundaries), settings.max_seq_length)
    return (pair for index in range(len(boundaries)) for pair in _segment_pairs(boundaries, index, settings, rng))


def _segment_pairs(
    boundaries: list[list[int]], index: int, settings: InstanceSettings, rng: Random
) -> Iterator[SegmentPair]:
    """Yield the pairs of one pass over document `index`.

    Sentences are collected until they have the target number of tokens; a random number of them becomes A. B is the
    rest of them, or sentences of another document; in that case the rest starts the next pair.
    """
    starts = boundaries[index]
    sentences = len(starts) - 1
    target = settings.max_tokens
    if rng.random() < settings.short_seq_prob:
        target = rng.randint(MIN_SEGMENT_PAIR, settings.max_tokens)
    first = 0
    while first < sentences:
        stop = first + 1
        while stop < sentences and starts[stop] - starts[first] < target:
            stop += 1
        split = first + (rng.randint(1, stop - first - 1) if stop - first > 1 else 1)
        is_random_next = split == stop or rng.random() < 0.5
        segment_a = starts[first], starts[split]
        if is_random_next:
            segment_b = _random_segment(boundaries, index, target - (segment_a[1] - segment_a[0]), rng)
        else:
            segment_b = starts[split], starts[stop]
        yield SegmentPair(*_truncate(segment_a, segment_b, settings.max_tokens, rng), is_random_next)
        first = split if is_random_next else stop


def _random_segment(boundaries: list[list[int]], index: int, target: int, rng: Random) -> tuple[int, int]:
    """Return sentences of a random document, up to `target` tokens or its end.

    Like the reference, this gives up finding a document other than `index` after ten draws. In a file with one
    document, B is from that document but labeled as random; `make_records` warns of such files.
    """
    for _ in range(RANDOM_DOCUMENT_TRIES):
        other = rng.randint(0, len(boundaries) - 1)
        if other != index:
            break
    starts = boundaries[other]
    sentences = len(starts) - 1
    first = rng.randint(0, sentences - 1)
    stop = first + 1
    while stop < sentences and starts[stop] - starts[first] < target:
        stop += 1
    return starts[first], starts[stop]


def _truncate(
    segment_a: tuple[int, int], segment_b: tuple[int, int], max_tokens: int, rng: Random
) -> tuple[int, int, int, int]:
    """Remove tokens from the longer segment (B if equal), at a random end, until both together have `max_tokens`."""
    (a_start, a_stop), (b_start, b_stop) = segment_a, segment_b
    length_a, length_b = a_stop - a_start, b_stop - b_start
    while length_a + length_b > max_tokens:
        is_front = rng.random() < 0.5
        if length_a > length_b:
            length_a -= 1
            a_start += is_front
        else:
            length_b -= 1
            b_start += is_front
    return a_start, a_start + length_a, b_start, b_start + length_b


def _mask(text: SegmentPair | Packed, vocabulary: Vocabulary, settings: InstanceSettings, rng: Random) -> Instance:
    """Choose the positions to predict and the ids to show there."""
    candidates = text.maskable()
    rng.shuffle(candidates)
    predictions = min(settings.max_predictions_per_seq, max(1, round(text.length * settings.masked_lm_prob)))
    # The reference draws in the order of the shuffle, before sorting.
    shown = {position: _draw_input(vocabulary, rng) for position in candidates[:predictions]}
    positions = sorted(shown)
    return Instance(text, array("i", positions), array("i", [shown[position] for position in positions]))


def _draw_input(vocabulary: Vocabulary, rng: Random) -> int:
    """Return the id to show in place of a masked token, or `KEEP`."""
    if rng.random() < MASK_PROBABILITY:
        return vocabulary.mask_id
    if rng.random() < KEEP_PROBABILITY:
        return KEEP
    return rng.randint(0, len(vocabulary.tokens) - 1)
