"""From logits to answers, against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from bert_large.finetune.squad_windows import ScoredWindow, predict

CONTEXT = "red green red blue"
OFFSETS = np.array([[0, 3], [4, 9], [10, 13], [14, 18]], dtype=np.int32)
# Tokens of the window: [CLS], one token of the question, [SEP], the four words, [SEP].
BEGIN = 3


def window(starts: list[float], ends: list[float], cls: tuple[float, float] = (0, 0)) -> ScoredWindow:
    """Return a window with these logits at the words, and higher ones at the tokens around them."""
    return ScoredWindow(
        BEGIN,
        OFFSETS,
        np.array([cls[0], 90, 90, *starts, 90], dtype=np.float32),
        np.array([cls[1], 90, 90, *ends, 90], dtype=np.float32),
    )


def test_n_best_by_hand() -> None:
    """Spans of up to 2 words: red 1+0, red green 1+3, green 2+3, green red 2+0, red 0+0, red blue 0+1, blue 0+1."""
    prediction = predict(CONTEXT, [window([1, 2, 0, 0], [0, 3, 0, 1])], n_best=4, max_answer_length=2)
    found = [(answer.text, answer.start_logit, answer.end_logit) for answer in prediction.candidates]
    assert found[:3] == [("green", 2, 3), ("red green", 1, 3), ("green red", 2, 0)]
    assert len(found) == 4 and found[3][1] + found[3][2] == 1
    assert prediction.text == "green"


def test_same_text_counts_once() -> None:
    logits = np.array([1, 5], dtype=np.float32)
    scored = [ScoredWindow(0, np.array([[0, 3], [4, 7]], dtype=np.int32), logits, logits)]
    prediction = predict("red red", scored, n_best=20, max_answer_length=1)
    assert [(answer.text, answer.score) for answer in prediction.candidates] == [("red", 10)]


def test_longest_answer() -> None:
    scored = [window([5, 0, 0, 0], [0, 0, 0, 5])]
    assert predict(CONTEXT, scored, n_best=1, max_answer_length=4).text == CONTEXT
    assert predict(CONTEXT, scored, n_best=1, max_answer_length=3).candidates[0].score == 5


def test_answers_end_where_they_begin_or_later() -> None:
    prediction = predict(CONTEXT, [window([0, 0, 0, 9], [9, 0, 0, 1])], n_best=1, max_answer_length=4)
    assert (prediction.text, prediction.candidates[0].score) == ("blue", 10)


def test_windows_compete() -> None:
    """The answer is the best span of any window; "no answer" has the lowest score of any window."""
    scored = [window([4, 0, 0, 0], [4, 0, 0, 0], cls=(5, 5)), window([0, 0, 0, 6], [0, 0, 0, 6], cls=(1, 2))]
    prediction = predict(CONTEXT, scored, n_best=20, max_answer_length=30)
    assert (prediction.text, prediction.no_answer.score, prediction.null_odds) == ("blue", 3, 3 - 12)


def test_probabilities() -> None:
    """The softmax of the scores: 2 and -8, and 3 for no answer."""
    scored = [ScoredWindow(1, OFFSETS[:2], np.array([3, 1, 1], np.float32), np.array([0, 1, -9], np.float32))]
    prediction = predict(CONTEXT, scored, n_best=2, max_answer_length=1)
    assert [answer.score for answer in prediction.candidates] == [2, -8]
    total = math.exp(3) + math.exp(2) + math.exp(-8)
    assert prediction.n_best(with_no_answer=True) == [
        {"text": "", "probability": pytest.approx(math.exp(3) / total), "start_logit": 3, "end_logit": 0},
        {"text": "red", "probability": pytest.approx(math.exp(2) / total), "start_logit": 1, "end_logit": 1},
        {"text": "green", "probability": pytest.approx(math.exp(-8) / total), "start_logit": 1, "end_logit": -9},
    ]
    assert [answer["text"] for answer in prediction.n_best(with_no_answer=False)] == ["red", "green"]


def test_context_without_tokens() -> None:
    logits = np.array([2, 9, 9], np.float32)
    prediction = predict(" ", [ScoredWindow(2, OFFSETS[:0], logits, logits)], n_best=20, max_answer_length=30)
    assert (prediction.text, prediction.null_odds) == ("", 0)
    assert [answer["probability"] for answer in prediction.n_best(with_no_answer=True)] == [1]
