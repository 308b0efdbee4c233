"""A text file to documents of tokenized sentences: one sentence per line, blank lines between documents."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bert_large.prepare.text_files import read_lines
from bert_large.prepare.text_forms import refuse_markup

# Enough lines to amortize the cost of a call, few enough to need little memory.
BATCH_LINES = 1024


@dataclass(frozen=True, slots=True)
class Documents:
    """The documents of one file, with their tokens concatenated.

    `tokens` is int32 [number of tokens]. `boundaries` has a list for each document: the positions in `tokens` where its
    sentences start, and where the last one ends. Sentence i is `tokens[starts[i] : starts[i + 1]]` and never empty.
    """

    tokens: NDArray[np.int32]
    boundaries: list[list[int]]


def read_documents(path: Path, encode: Callable[[Sequence[str]], list[list[int]]]) -> Documents:
    """Read a file; sentences without tokens and documents without sentences are discarded.

    `encode` returns the token ids of each line.
    """
    tokens = array("i")
    boundaries: list[list[int]] = []
    document = [0]
    unread = refuse_markup(read_lines(path), path)
    while lines := list(islice(unread, BATCH_LINES)):
        for line, ids in zip(lines, encode(lines), strict=True):
            if ids:
                tokens.fromlist(ids)
                document.append(len(tokens))
            # A line of control characters only has no tokens but is not blank, so it does not end the document.
            elif not line and len(document) > 1:
                boundaries.append(document)
                document = [len(tokens)]
    if len(document) > 1:
        boundaries.append(document)
    return Documents(np.array(tokens, dtype=np.int32), boundaries)
