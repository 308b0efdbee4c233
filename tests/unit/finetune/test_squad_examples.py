from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from bert_large.errors import DataError
from bert_large.finetune.squad_examples import Answer, Question, from_rows, read_squad

CONTEXT = "  Émile lives in Paris."


def write(path: Path, *questions: dict[str, Any], context: str = CONTEXT) -> Path:
    path.write_text(json.dumps({"version": "v2.0", "data": [{"title": "t", "paragraphs": [
        {"context": context, "qas": list(questions)}]}]}), encoding="utf-8")  # fmt: skip
    return path


def where(**changes: Any) -> dict[str, Any]:
    return {"id": "q1", "question": "Where?", "answers": [{"text": "Paris", "answer_start": 17}]} | changes


NOWHERE = {"id": "q2", "question": "Why?", "answers": [], "is_impossible": True}


def test_both_versions(tmp_path: Path) -> None:
    """Starts count code points of the context as it is, with the blanks before it, as some official ones have."""
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
    ("questions", "message"),
    [
        ([where(answers=[{"text": "Paris", "answer_start": 16}])],
         r"dev.json: question q1: the context has ' Pari' at answer_start 16, expected the answer 'Paris'"),
        ([where(answers=[{"text": "Paris", "answer_start": -6}])], "question q1: .* at answer_start -6"),
        ([where(answers=[{"text": "Paris", "answer_start": 900}])], "q1: the context has '' at answer_start 900"),
        ([where(answers=[{"text": "", "answer_start": 3}])], "question q1: .*expected the answer ''"),
        ([where(answers=[{"text": "Paris"}])], "dev.json: question q1: has no 'answer_start'"),
        ([where(answers=[{"text": "Paris", "answer_start": "17"}])], "'answer_start' is a str, expected a int"),
        ([where(answers="Paris")], "question q1: 'answers' is a str, expected a list"),
        ([where(question=None)], "question q1: 'question' is a NoneType"),
        ([{"question": "?"}], r"dev.json: data\[0\].paragraphs\[0\].qas\[0\]: has no 'id'"),
        ([where(), where()], "question q1 occurs twice"),
        ([where(is_impossible=True)], "question q1: is_impossible is True, with 1 answers"),
        ([NOWHERE | {"is_impossible": False}], "question q2: is_impossible is False, with 0 answers"),
        ([], "dev.json has no questions"),
    ],
)  # fmt: skip
def test_malformed_questions_are_named(tmp_path: Path, questions: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_squad(write(tmp_path / "dev.json", *questions), unanswerable=True)


def test_no_answer_is_of_2_alone(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"question q2 has no answer; .* --task squad2"):
        read_squad(write(tmp_path / "dev.json", where(), NOWHERE), unanswerable=False)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"data": [', "dev.json is not JSON"),
        (b"\xff", "dev.json is not JSON"),
        (b"[" * 100_000, "dev.json is not JSON"),
        (b"[]", "dev.json: has no 'data'"),
        (b'{"data": [{"paragraphs": [{"qas": []}]}]}', r"data\[0\].paragraphs\[0\]: has no 'context'"),
        (b'{"data": [{"paragraphs": {}}]}', r"data\[0\]: 'paragraphs' is a dict, expected a list"),
    ],
)
def test_malformed_files(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "dev.json").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_squad(tmp_path / "dev.json", unanswerable=True)
