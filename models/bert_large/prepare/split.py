"""Articles to the shards of a corpus, in one pass: a part held out, the others dealt to shards of even size."""

from __future__ import annotations

import hashlib
import heapq
from dataclasses import dataclass
from pathlib import Path

_HASH_BITS = 64
_HASH_KEY = b"bert-large: articles held out"
# Text that waits in memory: files are opened to append this much, one at a time, however many shards there are.
BUFFER_BYTES = 64 << 20


class HoldOut:
    """Takes out `count` of the articles offered to it, or fewer: those with the smallest keyed hash of their text.

    The choice depends on the set of articles alone, not on their order or their files. Only articles in the lowest
    `share` of all hashes are taken. Those taken are in memory.
    """

    def __init__(self, count: int, share: float = 1.0) -> None:
        self._count = count
        self._limit = int(share * (1 << _HASH_BITS)) if count else 0
        self._taken: list[tuple[int, bytes]] = []  # a heap with the largest hash first, negated
        self._hashes: set[int] = set()
        self.duplicates = 0
        """Articles that were dropped, for they equal one that is held out."""

    def offer(self, article: bytes) -> bytes | None:
        """Return the article to train on, if there is one now: this one, or one that it takes the place of."""
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
        """Return the articles that are held out, by their hash."""
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
    """Deals articles to shards: each to the one that is emptiest for its weight.

    So that shards of equal weight differ by no more than the longest article, and each is a sample of the whole text.
    """

    def __init__(self, shards: list[Shard]) -> None:
        self.shards = shards
        self._heap = [(0.0, number) for number in range(len(shards))]
        self._waiting: dict[int, list[bytes]] = {}
        self._waiting_bytes = 0

    def add(self, article: bytes) -> None:
        """Deal one article: UTF-8 lines, a sentence each."""
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
        """Append what waits to the files."""
        for number, texts in sorted(self._waiting.items()):
            with self.shards[number].path.open("ab") as file:
                file.writelines(texts)
        self._waiting.clear()
        self._waiting_bytes = 0


def plan_shards(folder: Path, count: int, phase1_fraction: float) -> list[Shard]:
    """Return `count` empty shards in `folder`: phase1/ with the first fraction of them and of the text, then phase2/.

    With a fraction of 1, all are in both/. Names count through both folders: part-00000-of-00010.
    """
    names = [f"part-{number:05d}-of-{count:05d}" for number in range(count)]
    if phase1_fraction == 1:
        return [Shard(folder / "both" / name, 1 / count) for name in names]
    first = min(max(1, round(count * phase1_fraction)), count - 1)
    phase1 = [Shard(folder / "phase1" / name, phase1_fraction / first) for name in names[:first]]
    share = (1 - phase1_fraction) / (count - first)
    return phase1 + [Shard(folder / "phase2" / name, share) for name in names[first:]]
