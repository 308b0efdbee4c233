"""Questions as the model's input, `[CLS] question [SEP] part of the context [SEP]`, and its logits as answers.

A context that is too long is split into overlapping windows, as in BERT's own code (Devlin et al. 2019,
arXiv:1810.04805): each window begins `doc_stride` tokens after the previous one. An answer is a first and a last token.
In a window that does not hold all of it, and in every window of a question without an answer, both targets are [CLS].

As there, the score of a span is the sum of its first token's start logit and its last token's end logit; the score of
"no answer" is the lowest sum at [CLS] over all windows. Unlike there, all spans are considered, not only those between
the most likely starts and ends.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from bert_large.errors import InputError
from bert_large.finetune.squad_examples import Answer, Question

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_SPECIAL_TOKENS = 3
Logits = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Window:
    """One input sequence of a question.

    `question` is the index of the question; `input_ids` int32 [tokens]. The part of the context begins at token
    `context_begin`; `offsets` int32 [context tokens, 2] has the code points of the context at which each of its tokens
    begins and ends. `answer_start` and `answer_end` are the first and last token of the answer, or 0 ([CLS]) for none.
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
    """Yield the windows of each question, in order, which cover its whole context.

    All lengths are in tokens and at least 1; a question over `max_query_length` is cut. Raises `InputError` when a
    window has no room for the context.
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
    """Raise `InputError` unless a window holds the longest question and at least one token of the context."""
    needed = max_query_length + _SPECIAL_TOKENS
    if max_seq_length <= needed:
        raise InputError(
            f"--max-seq-length is {max_seq_length}, expected over {needed}: up to {max_query_length} tokens of the "
            f"question (--max-query-length), {_SPECIAL_TOKENS} special tokens, and tokens of the context"
        )


def window_bounds(tokens: int, room: int, doc_stride: int) -> Iterator[tuple[int, int]]:
    """Yield begin and end of windows of up to `room` tokens; without tokens there is one window, which is empty."""
    begin = 0
    while begin + room < tokens:
        yield begin, begin + room
        begin += min(room, doc_stride)
    yield begin, tokens


def answer_tokens(answer: Answer, offsets: NDArray[np.int32]) -> tuple[int, int] | None:
    """Return the first and last token with characters of the answer; None if the tokenizer drops all of them."""
    first = int(np.searchsorted(offsets[:, 1], answer.start, side="right"))
    last = int(np.searchsorted(offsets[:, 0], answer.start + len(answer.text), side="left")) - 1
    return (first, last) if first <= last else None


@dataclass(frozen=True, slots=True)
class ScoredWindow:
    """A window (see `Window`) and its logits [tokens], of which the first is at [CLS]."""

    context_begin: int
    offsets: NDArray[np.int32]
    start_logits: Logits
    end_logits: Logits


@dataclass(frozen=True, slots=True)
class Candidate:
    """A possible answer; the empty text means that there is none."""

    text: str
    start_logit: float
    end_logit: float

    @property
    def score(self) -> float:
        """The logarithm of its probability, up to a constant of the question."""
        return self.start_logit + self.end_logit


@dataclass(frozen=True, slots=True)
class Prediction:
    """The model's answer to a question.

    `candidates` are different texts, the most likely first; there is at least one, which for a context without tokens
    is the empty text. `no_answer` is the empty text with the logits at [CLS].
    """

    candidates: list[Candidate]
    no_answer: Candidate

    @property
    def text(self) -> str:
        """The most likely answer, assuming that there is one."""
        return self.candidates[0].text

    @property
    def null_odds(self) -> float:
        """The score of "no answer" minus that of the most likely answer, in nats."""
        return self.no_answer.score - self.candidates[0].score

    def n_best(self, *, with_no_answer: bool) -> list[dict[str, str | float]]:
        """Return the candidates in the form of `nbest_predictions.json`, with probabilities that sum to 1."""
        candidates = self.candidates
        if with_no_answer and candidates[0].text:
            candidates = sorted([*candidates, self.no_answer], key=lambda candidate: -candidate.score)
        highest = candidates[0].score
        weights = [math.exp(candidate.score - highest) for candidate in candidates]
        return [
            {"text": found.text, "probability": weight / sum(weights), "start_logit": found.start_logit,
             "end_logit": found.end_logit}
            for found, weight in zip(candidates, weights, strict=True)
        ]  # fmt: skip


def predict(context: str, windows: Sequence[ScoredWindow], *, n_best: int, max_answer_length: int) -> Prediction:
    """Return the prediction from all windows: up to `n_best` candidates of up to `max_answer_length` tokens."""
    found = [
        Candidate(context[window.offsets[first, 0] : window.offsets[last, 1]], *logits)
        for window in windows
        for first, last, logits in _best_spans(window, n_best, max_answer_length)
    ]
    best: dict[str, Candidate] = {}
    for candidate in sorted(found, key=lambda candidate: -candidate.score):
        best.setdefault(candidate.text, candidate)
    no_answer = min(
        (Candidate("", float(window.start_logits[0]), float(window.end_logits[0])) for window in windows),
        key=lambda candidate: candidate.score,
    )
    return Prediction(list(best.values())[:n_best] or [no_answer], no_answer)


def _best_spans(window: ScoredWindow, count: int, max_length: int) -> Iterator[tuple[int, int, tuple[float, float]]]:
    """Yield the first and last context token of the `count` best spans, and their logits."""
    inside = slice(window.context_begin, window.context_begin + len(window.offsets))
    starts, ends = window.start_logits[inside], window.end_logits[inside]
    length = min(max_length, len(starts))
    if not length:
        return
    following = np.concatenate([ends, np.full(length - 1, -np.inf, dtype=ends.dtype)])
    # Row: first token of the span; column: its length - 1.
    scores = (starts[:, None] + sliding_window_view(following, length)).ravel()
    for index in np.argpartition(-scores, min(count, len(scores)) - 1)[:count]:
        if scores[index] > -np.inf:
            first, more = divmod(int(index), length)
            yield first, first + more, (float(starts[first]), float(ends[first + more]))
