"""SQuAD's files: both versions, answers whose white space differs, and errors that name the question."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from bert_large.errors import DataError
from bert_large.finetune.squad_examples import Answer, Question, from_rows, locate_answers, read_squad
from bert_large.log import LOGGER

CONTEXT = "  Émile lives in Paris."


def write(path: Path, *questions: dict[str, Any], context: str = CONTEXT) -> Path:
    path.write_text(json.dumps({"version": "v2.0", "data": [{"title": "t", "paragraphs": [
        {"context": context, "qas": list(questions)}]}]}), encoding="utf-8")  # fmt: skip
    return path


def where(**changes: Any) -> dict[str, Any]:
    return {"id": "q1", "question": "Where?", "answers": [{"text": "Paris", "answer_start": 17}]} | changes


NOWHERE = {"id": "q2", "question": "Why?", "answers": [], "is_impossible": True}


def test_both_versions(tmp_path: Path) -> None:
    """Starts count code points of the whole context, including the blanks at its start that some official ones have."""
    first = Question("q1", "Where?", CONTEXT, (Answer("Paris", 17),))
    assert read_squad(write(tmp_path / "1.json", where()), unanswerable=False) == [first]
    two = read_squad(write(tmp_path / "2.json", where(is_impossible=False), NOWHERE), unanswerable=True)
    assert two == [first, Question("q2", "Why?", CONTEXT, ())]


def test_rows_are_what_the_hub_has() -> None:
    row = {"id": "q1", "title": "t", "question": "Where?", "context": CONTEXT,
           "answers": {"text": ["Paris", "in Paris"], "answer_start": [17, 14]}}  # fmt: skip
    (question,) = from_rows("rajpurkar/squad train", [row], unanswerable=False)
    assert question == Question("q1", "Where?", CONTEXT, (Answer("Paris", 17), Answer("in Paris", 14)))
    assert Question.from_row(question.to_row()) == question


@pytest.mark.parametrize(
    ("context", "text", "start", "expected"),
    [
        (CONTEXT, "Paris", 16, Answer("Paris", 17)),  # one off: the words touched are "in Paris."
        (CONTEXT, " Paris", 17, Answer("Paris", 17)),
        ("in  New\u00a0 York City", "New York", 4, Answer("New\u00a0 York", 4)),
        ("a b a b", "a  b", 4, Answer("a b", 4)),  # the occurrence at the start given, not the first
        (CONTEXT, "Paris", 3, None),
        (CONTEXT, "London", 17, None),
        (CONTEXT, "Paris", -6, None),
        (CONTEXT, "Paris", 900, None),
        (CONTEXT, "", 3, None),
    ],
)
def test_answers_for_training(context: str, text: str, start: int, expected: Answer | None) -> None:
    """As in BERT's own code: accepted if only white space differs, else the question is skipped."""
    good = Question("good", "?", "abc", (Answer("b", 1),))
    found = locate_answers("train", [Question("q", "?", context, (Answer(text, start),)), good])
    assert [question.answers for question in found] == [*([(expected,)] if expected else []), good.answers]


def test_skipped_questions_are_counted(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LOGGER, "propagate", True)
    wrong = [Question(f"q{number}", "?", "abc", (Answer("x", 1),)) for number in range(4)]
    with pytest.raises(DataError, match=r"data\.json: 4 .*q0"):
        locate_answers("data.json", wrong)
    assert len(locate_answers("data.json", [*wrong, Question("r", "?", "abc", ())])) == 1
    (message,) = caplog.messages
    assert "data.json: 4 of 5" in message and "q0, q1, q2" in message


def test_offsets_of_evaluation_are_not_checked(tmp_path: Path) -> None:
    path = tmp_path / "dev.json"
    for start in (16, -6, 900, "17", None):
        (question,) = read_squad(
            write(path, where(answers=[{"text": "Paris", "answer_start": start}])), unanswerable=False
        )
        assert question.answers[0].text == "Paris"


def test_a_byte_order_mark(tmp_path: Path) -> None:
    path = write(tmp_path / "dev.json", where())
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(read_squad(path, unanswerable=False)) == 1


@pytest.mark.parametrize(
    ("questions", "named"),
    [
        ([where(answers=[{"answer_start": 3}])], "question q1: has no 'text'"),
        ([where(answers="Paris")], "question q1: 'answers'"),
        ([where(question=None)], "question q1: 'question'"),
        ([{"question": "?"}], "data[0].paragraphs[0].qas[0]: has no 'id'"),
        ([where(), where()], "question q1"),
        ([where(is_impossible=True)], "question q1: is_impossible"),
        ([NOWHERE | {"is_impossible": False}], "question q2: is_impossible"),
        ([], ""),
    ],
)
def test_malformed_questions_are_named(tmp_path: Path, questions: list[dict[str, Any]], named: str) -> None:
    with pytest.raises(DataError) as error:
        read_squad(write(tmp_path / "dev.json", *questions), unanswerable=True)
    assert str(tmp_path / "dev.json") in str(error.value) and named in str(error.value)


def test_squad_1_has_no_questions_without_answers(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"question q2 has no answer; .* --task squad2"):
        read_squad(write(tmp_path / "dev.json", where(), NOWHERE), unanswerable=False)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b'{"data": [', "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "'data'"),
        (b'{"data": [{"paragraphs": [{"qas": []}]}]}', "data[0].paragraphs[0]: has no 'context'"),
        (b'{"data": [{"paragraphs": {}}]}', "data[0]: 'paragraphs'"),
    ],
)
def test_malformed_files(tmp_path: Path, content: bytes, named: str) -> None:
    (tmp_path / "dev.json").write_bytes(content)
    with pytest.raises(DataError) as error:
        read_squad(tmp_path / "dev.json", unanswerable=True)
    assert str(tmp_path / "dev.json") in str(error.value) and named in str(error.value)
