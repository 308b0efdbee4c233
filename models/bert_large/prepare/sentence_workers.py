"""Articles to sentences on all cores: batches go to worker processes, and their results come back in order."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import NamedTuple

from bert_large.prepare.duplicates import fingerprints_of
from bert_large.prepare.sentences import clean, split_sentences
from bert_large.prepare.wikipedia import plain_paragraphs
from bert_large.worker_processes import worker_pool

BATCH_CHARACTERS = 1 << 18
LONGEST_ARTICLE_BYTES = 4 << 20
"""Articles longer by half are divided: one of a shard's size would leave that shard no random next sentences."""
_BATCHES_PER_WORKER = 3


class Article(NamedTuple):
    """An article, or a part of a long one, as UTF-8 lines with one sentence each."""

    text: bytes
    fingerprints: list[int]
    is_cut: bool
    """Whether the next article is the next part of this one."""


@dataclass(frozen=True)
class SentenceMaker:
    """Converts the lines of articles to sentences."""

    form: str
    language: str
    duplicates: str

    def __call__(self, batch: list[list[str]]) -> list[Article]:
        """Return the articles of a batch that have sentences; a long one is divided into several."""
        made = []
        for lines in batch:
            if self.form == "mediawiki":
                lines = plain_paragraphs(lines[0], lines[1:])
            if self.form != "sentences":
                lines = [sentence for line in lines for sentence in split_sentences(clean(line), self.language)]
            parts = _divide(lines)
            made += [
                Article(text, fingerprints_of(text, self.duplicates), number < len(parts))
                for number, text in enumerate(parts, start=1)
            ]
        return made


def make_sentences(articles: Iterable[list[str]], maker: SentenceMaker, workers: int) -> Iterator[Article]:
    """Yield the results for all articles in their order, whatever the number of `workers`; with 1, none is started.

    At most three batches per worker are in memory. Raises `UserError` if a worker process is killed.
    """
    if workers == 1:
        yield from itertools.chain.from_iterable(map(maker, _batches(articles)))
        return
    waiting: deque[Future[list[Article]]] = deque()
    with worker_pool(workers) as pool:
        for batch in _batches(articles):
            waiting.append(pool.submit(maker, batch))
            if len(waiting) >= _BATCHES_PER_WORKER * workers:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()


def _batches(articles: Iterable[list[str]]) -> Iterator[list[list[str]]]:
    batch: list[list[str]] = []
    characters = 0
    for lines in articles:
        batch.append(lines)
        characters += sum(map(len, lines))
        if characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _divide(sentences: list[str]) -> list[bytes]:
    """Return an article's sentences as UTF-8 lines: in equal parts if it is long, nothing if it has no sentences."""
    lines = [f"{sentence}\n".encode() for sentence in sentences]
    size = sum(map(len, lines))
    most = size / max(1, round(size / LONGEST_ARTICLE_BYTES))
    parts, start, size = [], 0, 0
    for end, line in enumerate(lines, start=1):
        size += len(line)
        if size >= most or end == len(lines):
            parts.append(b"".join(lines[start:end]))
            start, size = end, 0
    return parts
