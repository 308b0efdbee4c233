"""Articles to the shards of a corpus in one pass: some are held out, the others go to shards of equal size."""

from __future__ import annotations

import hashlib
import heapq
from dataclasses import dataclass
from pathlib import Path

_HASH_BITS = 64
_HASH_KEY = b"bert-large: articles held out"
# Text buffered in memory. When it is this much, each file is opened in turn to append to, so that any number of shards
# needs one open file.
BUFFER_BYTES = 64 << 20


class HoldOut:
    """Holds out the `count` articles with the smallest keyed hash of their text, or fewer.

    The choice depends only on the set of articles, not on their order or their files. Only articles in the lowest
    `share` of all hashes are held out. They are kept in memory.
    """

    def __init__(self, count: int, share: float = 1.0) -> None:
        self._count = count
        self._limit = int(share * (1 << _HASH_BITS)) if count else 0
        self._taken: list[tuple[int, bytes]] = []  # a heap with the largest hash first, negated
        self._hashes: set[int] = set()
        self.duplicates = 0
        """Number of articles discarded because they equal one that is held out."""

    def offer(self, article: bytes) -> bytes | None:
        """Return an article to train on, if any: this one, or a held-out one that it replaces."""
        digest = hashlib.blake2b(article, digest_size=_HASH_BITS // 8, key=_HASH_KEY).digest()
        number = int.from_bytes(digest, "big")
        if number >= self._limit:
            return article
        if number in self._hashes:
            self.duplicates += 1
            return None
        self._hashes.add(number)
        heapq.heappush(self._taken, (-number, article))
        if len(self._taken) <= self._count:
            return None
        largest, other = heapq.heappop(self._taken)
        self._hashes.remove(-largest)
        return other

    def taken(self) -> list[bytes]:
        """Return the held-out articles, sorted by hash."""
        return [article for _, article in sorted(self._taken, reverse=True)]


@dataclass
class Shard:
    """A file of articles; `weight` is its share of all text."""

    path: Path
    weight: float
    articles: int = 0
    sentences: int = 0
    bytes: int = 0


class Dealer:
    """Distributes articles to shards: each to the shard with the fewest bytes relative to its weight.

    Thus shards of equal weight differ by at most the longest article, and each is a sample of the whole text.
    """

    def __init__(self, shards: list[Shard]) -> None:
        self.shards = shards
        self._heap = [(0.0, number) for number in range(len(shards))]
        self._waiting: dict[int, list[bytes]] = {}
        self._waiting_bytes = 0

    def add(self, article: bytes) -> None:
        """Add an article: UTF-8 lines with one sentence each."""
        number = self._heap[0][1]
        shard = self.shards[number]
        text = article if shard.articles == 0 else b"\n" + article
        shard.articles += 1
        shard.sentences += article.count(b"\n")
        shard.bytes += len(text)
        heapq.heapreplace(self._heap, (shard.bytes / shard.weight, number))
        self._waiting.setdefault(number, []).append(text)
        self._waiting_bytes += len(text)
        if self._waiting_bytes >= BUFFER_BYTES:
            self.flush()

    def flush(self) -> None:
        """Append the buffered text to the files."""
        for number, texts in sorted(self._waiting.items()):
            with self.shards[number].path.open("ab") as file:
                file.writelines(texts)
        self._waiting.clear()
        self._waiting_bytes = 0


def plan_shards(folder: Path, count: int, phase1_fraction: float) -> list[Shard]:
    """Return `count` empty shards in `folder`: the first fraction of them, and of the text, in phase1/, then phase2/.

    With a fraction of 1, all are in both/. Numbers run through both folders: part-00000-of-00010.
    """
    names = [f"part-{number:05d}-of-{count:05d}" for number in range(count)]
    if phase1_fraction == 1:
        return [Shard(folder / "both" / name, 1 / count) for name in names]
    first = min(max(1, round(count * phase1_fraction)), count - 1)
    phase1 = [Shard(folder / "phase1" / name, phase1_fraction / first) for name in names[:first]]
    share = (1 - phase1_fraction) / (count - first)
    return phase1 + [Shard(folder / "phase2" / name, share) for name in names[first:]]
