"""Documents to sequences that are packed full, without next-sentence pairs.

A sequence holds consecutive tokens of one or more documents, as in RoBERTa's FULL-SENTENCES (Liu et al. 2019,
arXiv:1907.11692, 4.2), but sentences may be cut. Each part is [CLS] … [SEP] with positions of its own and no attention
to the other parts (Krell et al. 2021, arXiv:2107.02027), so documents in one sequence do not influence each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bert_large.data.record import NO_PAIR, Record
from bert_large.prepare.vocab import Vocabulary

_SPECIAL = 2
"""[CLS] and [SEP] of each part."""
_SHORTEST = 8
"""A document is cut only if at least so many of its tokens fit into the rest of a sequence."""
_MOST_PARTS = 127
"""The number of a part is stored in a byte."""


class Packed(NamedTuple):
    """A sequence: its parts as ranges of `Documents.tokens`."""

    parts: tuple[tuple[int, int], ...]

    @property
    def length(self) -> int:
        """Number of tokens, with [CLS] and [SEP] of every part."""
        return sum(stop - start + _SPECIAL for start, stop in self.parts)

    def maskable(self) -> list[int]:
        """Return the positions of all tokens but [CLS] and [SEP]."""
        positions: list[int] = []
        first = 1
        for start, stop in self.parts:
            positions += range(first, first + stop - start)
            first += stop - start + _SPECIAL
        return positions

    def lay_out(self, tokens: NDArray[np.int32], vocabulary: Vocabulary) -> Record:
        """Return the record without masks."""
        ends = np.cumsum([stop - start + _SPECIAL for start, stop in self.parts])
        first = [0, *ends[:-1].tolist()]
        input_ids = np.empty(ends[-1], dtype=np.int32)
        input_ids[first] = vocabulary.cls_id
        input_ids[ends - 1] = vocabulary.sep_id
        input_ids[self.maskable()] = np.concatenate([tokens[start:stop] for start, stop in self.parts])
        none = np.empty(0, dtype=np.int32)
        return Record(input_ids, np.zeros(ends[-1], np.uint8), none, none, NO_PAIR, tuple(first))


def pack(documents: Iterable[tuple[int, int]], max_seq_length: int) -> Iterator[Packed]:
    """Yield sequences of at most `max_seq_length` tokens that hold all documents, which are ranges, in order."""
    parts: list[tuple[int, int]] = []
    room = max_seq_length
    for start, stop in documents:
        while start < stop:
            size = min(stop - start, room - _SPECIAL)
            is_too_small = size < 1 or (size < stop - start and size < _SHORTEST)
            if parts and (is_too_small or len(parts) == _MOST_PARTS):
                yield Packed(tuple(parts))
                parts, room = [], max_seq_length
                continue
            parts.append((start, start + size))
            start += size
            room -= size + _SPECIAL
    if parts:
        yield Packed(tuple(parts))
