"""Questions to what the model reads: `[CLS] question [SEP] part of the context [SEP]`.

A context that is too long is read in overlapping windows, as in BERT's own code (Devlin et al. 2019, arXiv:1810.04805):
each begins `doc_stride` tokens after the one before. An answer is a first and a last token; a window that does not hold
all of it is trained to point both at [CLS], and so is every window of a question without an answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bert_large.errors import InputError
from bert_large.finetune.squad_examples import Answer, Question

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_SPECIAL_TOKENS = 3


@dataclass(frozen=True, slots=True)
class Window:
    """What the model reads of a question at once.

    `question` is the question's place among all; `input_ids` int32 [tokens]; the context's part begins at token
    `context_begin` and has a row of `offsets` (int32 [context tokens, 2]) for each of its tokens: where in the context
    it begins and ends, in code points. `answer_start` and `answer_end` are the tokens that the answer begins and ends
    with; 0, that is [CLS], for none.
    """

    question: int
    input_ids: NDArray[np.int32]
    context_begin: int
    offsets: NDArray[np.int32]
    answer_start: int
    answer_end: int

    @property
    def token_type_ids(self) -> NDArray[np.int32]:
        """0 up to the first [SEP], then 1; int32 [tokens]."""
        return (np.arange(len(self.input_ids)) >= self.context_begin).astype(np.int32)


def make_windows(
    questions: Iterable[Question],
    tokenizer: PreTrainedTokenizerFast,
    *,
    max_seq_length: int,
    doc_stride: int,
    max_query_length: int,
) -> Iterator[Window]:
    """Yield the windows of each question, in order; they cover its whole context, and a longer question is cut.

    All lengths are in tokens, at least 1. Raises `InputError` when a window has no room for the context.
    """
    require_room(max_seq_length, max_query_length)
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    numbered = enumerate(questions)
    for context, together in groupby(numbered, key=lambda item: item[1].context):
        encoding = tokenizer(context, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        ids = np.array(encoding["input_ids"], dtype=np.int32)
        offsets = np.array(encoding["offset_mapping"], dtype=np.int32).reshape(-1, 2)
        for number, question in together:
            query = tokenizer(question.text, add_special_tokens=False, verbose=False)["input_ids"][:max_query_length]
            head = np.array([cls, *query, sep], dtype=np.int32)
            answer = answer_tokens(question.answers[0], offsets) if question.answers else None
            for begin, end in window_bounds(len(ids), max_seq_length - len(head) - 1, doc_stride):
                first = last = 0
                if answer is not None and begin <= answer[0] and answer[1] < end:
                    first, last = (len(head) + token - begin for token in answer)
                input_ids = np.append(np.concatenate([head, ids[begin:end]]), np.int32(sep))
                yield Window(number, input_ids, len(head), offsets[begin:end], first, last)


def require_room(max_seq_length: int, max_query_length: int) -> None:
    """Raise `InputError` unless a window holds the longest question and at least a token of the context."""
    needed = max_query_length + _SPECIAL_TOKENS
    if max_seq_length <= needed:
        raise InputError(
            f"--max-seq-length is {max_seq_length}, expected over {needed}: up to {max_query_length} tokens of the "
            f"question (--max-query-length), {_SPECIAL_TOKENS} special ones, and the context's"
        )


def window_bounds(tokens: int, room: int, doc_stride: int) -> Iterator[tuple[int, int]]:
    """Yield where windows of up to `room` tokens begin and end; without tokens there is one, which is empty."""
    begin = 0
    while begin + room < tokens:
        yield begin, begin + room
        begin += min(room, doc_stride)
    yield begin, tokens


def answer_tokens(answer: Answer, offsets: NDArray[np.int32]) -> tuple[int, int] | None:
    """Return the first and last token that have characters of the answer; None if the tokenizer drops all of them."""
    first = int(np.searchsorted(offsets[:, 1], answer.start, side="right"))
    last = int(np.searchsorted(offsets[:, 0], answer.start + len(answer.text), side="left")) - 1
    return (first, last) if first <= last else None
