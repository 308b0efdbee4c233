"""A text file to documents of tokenized sentences: one sentence a line, blank lines between documents."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from bert_large.errors import InputError

# Enough lines to spread the cost of a call, few enough not to count in memory.
BATCH_LINES = 1024

T = TypeVar("T")


class Tokenizer(Protocol):
    """What `read_documents` needs of a tokenizer."""

    def encode(self, lines: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each line."""


@dataclass(frozen=True, slots=True)
class Documents:
    """The documents of one file, their tokens laid end to end.

    `tokens` int32 [all tokens]; `boundaries` has a list for each document: where in `tokens` its sentences start, and
    where the last one ends. Sentence i of a document is `tokens[boundaries[i] : boundaries[i + 1]]`, never empty.
    """

    tokens: NDArray[np.int32]
    boundaries: list[list[int]]


def read_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a UTF-8 file without surrounding whitespace; raise `InputError` at the first wrong byte.

    Only a line feed ends a line, as in the reference: the other line ends that Python knows occur inside sentences.
    """
    offset = 0
    with path.open("rb") as file:
        for line in file:
            try:
                yield line.decode("utf-8").strip()
            except UnicodeDecodeError as error:
                raise InputError(
                    f"{path}: byte {offset + error.start}: {line[error.start]:#04x} is not UTF-8 ({error.reason}); "
                    "convert the file, for example with `iconv -t UTF-8`"
                ) from error
            offset += len(line)


def read_documents(path: Path, tokenizer: Tokenizer) -> Documents:
    """Read and tokenize a file; sentences without tokens and documents without sentences are dropped."""
    tokens = array("i")
    boundaries: list[list[int]] = []
    document = [0]
    for lines in _batches(read_lines(path), BATCH_LINES):
        for line, ids in zip(lines, tokenizer.encode(lines), strict=True):
            if ids:
                tokens.fromlist(ids)
                document.append(len(tokens))
            # A line of only control characters has no tokens, but is not blank: the document goes on.
            elif not line and len(document) > 1:
                boundaries.append(document)
                document = [len(tokens)]
    if len(document) > 1:
        boundaries.append(document)
    return Documents(np.array(tokens, dtype=np.int32), boundaries)


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield `items` in lists of `size`, the last one shorter."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
