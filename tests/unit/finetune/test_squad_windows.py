"""Windows of questions, and the way back from logits to answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from bert_large.errors import InputError
from bert_large.finetune.squad_examples import Answer, Question
from bert_large.finetune.squad_windows import (
    ScoredWindow,
    Window,
    answer_tokens,
    make_windows,
    predict,
    window_bounds,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.word_tokenizer import word_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return word_tokenizer()


def windows_of(tokenizer: Any, question: Question, max_seq_length: int, doc_stride: int) -> list[Window]:
    return list(
        make_windows([question], tokenizer, max_seq_length=max_seq_length, doc_stride=doc_stride, max_query_length=4)
    )


def test_one_window(tokenizer: Any) -> None:
    (window,) = windows_of(tokenizer, Question("q", "who", "Ab,  c", (Answer("b", 1),)), 16, 4)
    assert tokenizer.convert_ids_to_tokens(window.input_ids) == [
        "[CLS]", "w", "##h", "##o", "[SEP]", "a", "##b", ",", "c", "[SEP]",
    ]  # fmt: skip
    assert window.token_type_ids.tolist() == [0] * 5 + [1] * 5
    assert window.offsets.tolist() == [[0, 1], [1, 2], [2, 3], [5, 6]]
    assert (window.context_begin, window.answer_start, window.answer_end) == (5, 6, 6)


def test_windows_of_a_long_context(tokenizer: Any) -> None:
    """Room for 4 of 9 tokens, with a stride of 2; one window holds all of the answer, tokens 3 to 5."""
    question = Question("q", "whoever", "abcdefghi", (Answer("def", 3),))
    windows = windows_of(tokenizer, question, 11, 2)
    assert [tokenizer.convert_ids_to_tokens(window.input_ids) for window in windows] == [
        ["[CLS]", "w", "##h", "##o", "##e", "[SEP]", *part, "[SEP]"]  # the question is cut at 4 tokens
        for part in (
            ["a", "##b", "##c", "##d"],
            ["##c", "##d", "##e", "##f"],
            ["##e", "##f", "##g", "##h"],
            ["##g", "##h", "##i"],
        )
    ]
    assert [(window.answer_start, window.answer_end) for window in windows] == [(0, 0), (7, 9), (0, 0), (0, 0)]


def test_no_answer_and_no_context(tokenizer: Any) -> None:
    questions = [Question("q", "who", "ab", ()), Question("r", "who", " \u200b", ())]
    windows = list(make_windows(questions, tokenizer, max_seq_length=16, doc_stride=4, max_query_length=4))
    assert [(window.question, window.answer_start, window.answer_end, len(window.offsets)) for window in windows] == [
        (0, 0, 0, 2), (1, 0, 0, 0),
    ]  # fmt: skip


def test_questions_are_numbered_over_contexts(tokenizer: Any) -> None:
    contexts = ["ab", "ab", "cd", "ab"]
    questions = [Question(str(number), "who", context, ()) for number, context in enumerate(contexts)]
    windows = make_windows(questions, tokenizer, max_seq_length=16, doc_stride=4, max_query_length=4)
    assert [window.question for window in windows] == [0, 1, 2, 3]


def test_no_room(tokenizer: Any) -> None:
    with pytest.raises(InputError, match="--max-seq-length is 7"):
        windows_of(tokenizer, Question("q", "who", "ab", ()), 7, 4)


@given(st.integers(0, 60), st.integers(1, 20), st.integers(1, 30))
def test_windows_cover_everything(tokens: int, room: int, doc_stride: int) -> None:
    bounds = list(window_bounds(tokens, room, doc_stride))
    assert {token for begin, end in bounds for token in range(begin, end)} == set(range(tokens))
    assert all(end - begin <= room for begin, end in bounds)
    assert [begin for begin, _ in bounds] == [number * min(room, doc_stride) for number in range(len(bounds))]
    assert all(end < tokens for _, end in bounds[:-1])  # no window after the first that reaches the end


OFFSETS = np.array([[0, 3], [4, 6], [6, 9], [9, 10]], dtype=np.int32)


@pytest.mark.parametrize(
    ("text", "start", "expected"),
    [
        ("abc", 0, (0, 0)),
        ("ef", 5, (1, 2)),  # begins and ends within tokens, which are included whole
        (" d", 3, (1, 1)),
        ("c ", 2, (0, 0)),
        (" ", 3, None),
        ("i.", 8, (2, 3)),
    ],
)
def test_answer_tokens(text: str, start: int, expected: tuple[int, int] | None) -> None:
    """In the context `abc defghi.`"""
    assert answer_tokens(Answer(text, start), OFFSETS) == expected


WORDS = st.lists(st.text("abcÉ中ﬁ\u0301", min_size=1, max_size=4), min_size=1, max_size=30)


@settings(deadline=None)
@given(words=WORDS, ends=st.tuples(st.integers(0, 100), st.integers(0, 100)), doc_stride=st.integers(1, 12))
def test_correct_logits_give_the_answer(
    tokenizer: Any, words: list[str], ends: tuple[int, int], doc_stride: int
) -> None:
    """With logits of 1 at the ends of the answer, which is whole words, and 0 elsewhere, the prediction is its text.

    Windows without the answer have those logits at [CLS]. If no window holds all of it, because it is longer than a
    window or crosses their borders, "no answer" is the most likely.
    """
    context = "  ".join(words)
    first, last = sorted(end % len(words) for end in ends)
    answer = "  ".join(words[first : last + 1])
    start = len("  ".join([*words[:first], ""]))
    question = Question("q", "who", context, (Answer(answer, start),))
    windows = windows_of(tokenizer, question, 24, doc_stride)
    scored = []
    for window in windows:
        starts, stops = np.zeros((2, len(window.input_ids)), dtype=np.float32)
        starts[window.answer_start], stops[window.answer_end] = 1, 1
        scored.append(ScoredWindow(window.context_begin, window.offsets, starts, stops))
    prediction = predict(context, scored, n_best=5, max_answer_length=24)
    if any(window.answer_start for window in windows):
        assert prediction.text.strip(" \u0301") == answer.strip(" \u0301")  # a separate accent is in no token
    else:
        assert prediction.null_odds >= 0
