"""Duplicate articles: found by hashes of whole articles, and near-duplicates by MinHash."""

from __future__ import annotations

import hashlib
import re
from importlib.metadata import version
from typing import Any

import numpy as np

from bert_large.extras import import_extra

_SHINGLE_WORDS = 5
_BANDS, _ROWS = 14, 8
"""As in FineWeb (arXiv 2406.17557): two articles whose sets of word 5-grams have the Jaccard similarity s share one of
the 14 bands of 8 MinHash values with probability 1 - (1 - s^8)^14: 0.05 for s = 0.5, 0.77 for 0.75, 0.9997 for 0.9."""
_SHINGLES_AT_ONCE = 4096
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\u0e00-\u0e7f]|[^\W\u3040-\u30ff\u3400-\u9fff]+")
"""A word; a character of a script that is written without spaces is a word."""
FINGERPRINT_BYTES = 8
MOST_TABLE_BYTES = 1 << 30
"""Memory for fingerprints: enough for 100 million articles, or 6 million if near-duplicates are searched for."""
_FIRST_SLOTS = 1 << 16


def describe_method(mode: str) -> str:
    """Return the mode, with the version of the library that the choice of near-duplicates depends on.

    Raises `InputError` if the library is not installed.
    """
    if mode != "near":
        return mode
    import_extra("--duplicates near", "text", "datasketch")
    return f"{mode}, datasketch {version('datasketch')}"


def fingerprints_of(article: bytes, mode: str) -> list[int]:
    """Return 64-bit fingerprints of an article: for `mode` "exact" of the whole, for "near" also one per band.

    Articles with an equal first fingerprint are equal; those with another equal one are near-duplicates.
    """
    if mode == "keep":
        return []
    found = [_hash(b"article", article)]
    if mode == "near":
        values = _min_hash(article.decode())
        bands = values.reshape(_BANDS, _ROWS)
        found += [_hash(b"band%d" % number, band.tobytes()) for number, band in enumerate(bands)]
    return found


def _min_hash(text: str) -> Any:
    """Return the MinHash values, uint32 [_BANDS · _ROWS], of the set of word 5-grams, with case ignored."""
    from datasketch import MinHash

    words = _WORD.findall(text.lower())
    shingles = [
        " ".join(words[start : start + _SHINGLE_WORDS]).encode()
        for start in range(max(1, len(words) - _SHINGLE_WORDS + 1))
    ]
    sketch = MinHash(_BANDS * _ROWS, seed=1, scheme="affine32")
    for start in range(0, len(shingles), _SHINGLES_AT_ONCE):
        sketch.update_batch(shingles[start : start + _SHINGLES_AT_ONCE])
    return np.asarray(sketch.hashvalues, dtype="<u4")


def _hash(kind: bytes, data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=FINGERPRINT_BYTES, person=kind).digest(), "little") or 1


class Duplicates:
    """Finds articles that were seen before, in bounded memory: a hash table of 64-bit fingerprints.

    The first of several duplicates is kept, so the result depends on the order of the articles.
    """

    def __init__(self, most_bytes: int = MOST_TABLE_BYTES) -> None:
        """Start with a small table, which grows to `most_bytes`, a power of two."""
        self._most_slots = most_bytes // FINGERPRINT_BYTES
        self._resize(min(_FIRST_SLOTS, self._most_slots))
        self.exact = self.near = 0
        """Articles found to be duplicates."""
        self.unrecorded = 0
        """Articles that were not recorded because the table is full: duplicates of them are not found."""

    def contains(self, fingerprints: list[int]) -> bool:
        """Return whether an article is a duplicate of an earlier one, and record it if it is not."""
        if not fingerprints:
            return False
        slots = list(map(self._slot_of, fingerprints))
        if self._table[slots[0]]:
            self.exact += 1
            return True
        if any(self._table[slot] for slot in slots[1:]):
            self.near += 1
            return True
        if self._room < len(fingerprints) and len(self._table) < self._most_slots:
            recorded = [fingerprint for fingerprint in self._table if fingerprint]
            self._resize(2 * len(self._table))
            self._add(recorded)
        if self._room < len(fingerprints):
            self.unrecorded += 1
        else:
            self._add(fingerprints)
        return False

    def _resize(self, slots: int) -> None:
        """Make an empty table, of which three quarters may be used."""
        self._table: Any = np.zeros(slots, dtype=np.uint64).data
        self._mask, self._room = slots - 1, slots * 3 // 4

    def _add(self, fingerprints: list[int]) -> None:
        for fingerprint in fingerprints:
            slot = self._slot_of(fingerprint)
            self._room -= self._table[slot] == 0
            self._table[slot] = fingerprint

    def _slot_of(self, fingerprint: int) -> int:
        """Return the slot that holds a fingerprint, or the empty one where it belongs (linear probing)."""
        slot = fingerprint & self._mask
        while (stored := self._table[slot]) and stored != fingerprint:
            slot = (slot + 1) & self._mask
        return slot
