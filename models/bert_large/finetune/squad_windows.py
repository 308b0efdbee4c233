"""Questions to what the model reads: `[CLS] question [SEP] part of the context [SEP]`.

A context that is too long is read in overlapping windows, as in BERT's own code (Devlin et al. 2019, arXiv:1810.04805):
each begins `doc_stride` tokens after the one before. An answer is a first and a last token; a window that does not hold
all of it is trained to point both at [CLS], and so is every window of a question without an answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from bert_large.errors import InputError
from bert_large.finetune.squad_examples import Answer, Question
from bert_large.prepare.vocab import CLS, SEP

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
    questions: Sequence[Question],
    tokenizer: Tokenizer,
    *,
    max_seq_length: int,
    doc_stride: int,
    max_query_length: int,
) -> Iterator[Window]:
    """Yield the windows of each question, in order; they cover its whole context, and a longer question is cut.

    All lengths are in tokens. Raises `InputError` when a window has no room for the context.
    """
    if max_seq_length <= max_query_length + _SPECIAL_TOKENS:
        raise InputError(
            f"the maximal sequence length is {max_seq_length}, expected over {max_query_length + _SPECIAL_TOKENS}: "
            f"{max_query_length} tokens of the question, {_SPECIAL_TOKENS} special ones, and the context"
        )
    if doc_stride < 1:
        raise InputError(f"the document stride is {doc_stride}, expected at least 1 token")
    cls, sep = (np.array([tokenizer.token_to_id(token)], dtype=np.int32) for token in (CLS, SEP))
    index = 0
    for context, together in groupby(questions, key=lambda question: question.context):
        encoding = tokenizer.encode(context, add_special_tokens=False)
        ids = np.array(encoding.ids, dtype=np.int32)
        offsets = np.array(encoding.offsets, dtype=np.int32).reshape(-1, 2)
        for question in together:
            query_ids = tokenizer.encode(question.text, add_special_tokens=False).ids[:max_query_length]
            head = np.concatenate([cls, np.array(query_ids, dtype=np.int32), sep])
            room = max_seq_length - len(head) - 1
            answer = answer_tokens(question.answers[0], offsets) if question.answers else None
            for begin, end in window_bounds(len(ids), room, doc_stride):
                inside = answer is not None and begin <= answer[0] and answer[1] < end
                first, last = (len(head) - begin + token for token in answer) if answer and inside else (0, 0)
                input_ids = np.concatenate([head, ids[begin:end], sep])
                yield Window(index, input_ids, len(head), offsets[begin:end], first, last)
            index += 1


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
