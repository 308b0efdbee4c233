"""Questions of SQuAD 1.1 and 2.0: read from the official JSON files, or from rows of `datasets`.

Format: `{"data": [{"paragraphs": [{"context": …, "qas": [{"id": …, "question": …, "answers": [{"text": …,
"answer_start": …}], "is_impossible": …}]}]}]}`; `is_impossible` is new in 2.0, `answer_start` counts code points.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bert_large.errors import DataError


@dataclass(frozen=True, slots=True)
class Answer:
    """A gold answer: the text from code point `start` of the context on."""

    text: str
    start: int


@dataclass(frozen=True, slots=True)
class Question:
    """A question about a context. It has no answers if the context does not answer it."""

    id: str
    text: str
    context: str
    answers: tuple[Answer, ...]

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Question:
        """Return the question of a row of `datasets`, where `answers` is a list of texts and one of starts."""
        answers = tuple(map(Answer, row["answers"]["text"], row["answers"]["answer_start"]))
        return cls(row["id"], row["question"], row["context"], answers)

    def to_row(self) -> dict[str, Any]:
        """Return what `from_row` takes."""
        answers = {
            "text": [answer.text for answer in self.answers],
            "answer_start": [answer.start for answer in self.answers],
        }
        return {"id": self.id, "question": self.text, "context": self.context, "answers": answers}


def read_squad(path: Path, *, unanswerable: bool) -> list[Question]:
    """Read an official file; raise `DataError`, which names the file and the question, where it breaks its format.

    `unanswerable`: whether questions may have no answer, as in 2.0.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # not UTF-8, cut short, nested without end
        raise DataError(f"{path} is not JSON: {error}; expected a file of SQuAD's format") from error
    return _checked(path, _questions(path, content), unanswerable)


def from_rows(source: str, rows: Iterable[Mapping[str, Any]], *, unanswerable: bool) -> list[Question]:
    """Return the questions of `rajpurkar/squad` or `squad_v2`; errors are those of `read_squad`, naming `source`."""
    return _checked(source, map(Question.from_row, rows), unanswerable)


def _questions(path: Path, content: object) -> Iterator[Question]:
    for article_number, article in enumerate(_member(content, "data", list, str(path))):
        where = f"{path}: data[{article_number}]"
        for paragraph_number, paragraph in enumerate(_member(article, "paragraphs", list, where)):
            inside = f"{where}.paragraphs[{paragraph_number}]"
            context = _member(paragraph, "context", str, inside)
            for number, question in enumerate(_member(paragraph, "qas", list, inside)):
                identifier = _member(question, "id", str, f"{inside}.qas[{number}]")
                yield _question(question, identifier, context, f"{path}: question {identifier}")


def _question(question: object, identifier: str, context: str, where: str) -> Question:
    answers = tuple(
        Answer(_member(answer, "text", str, where), _member(answer, "answer_start", int, where))
        for answer in _member(question, "answers", list, where)
    )
    impossible = isinstance(question, dict) and question.get("is_impossible", not answers)
    if impossible is not (not answers):
        raise DataError(
            f"{where}: is_impossible is {impossible!r}, with {len(answers)} answers; expected true without answers, "
            "else false"
        )
    return Question(identifier, _member(question, "question", str, where), context, answers)


def _member(container: object, name: str, kind: type, where: str) -> Any:
    """Return the member `name` of a JSON object; raise `DataError` if it is not there or not of the type `kind`."""
    if not isinstance(container, dict) or name not in container:
        raise DataError(f"{where}: has no {name!r}; expected a file of SQuAD's format")
    value = container[name]
    if not isinstance(value, kind):
        raise DataError(f"{where}: {name!r} is a {type(value).__name__}, expected a {kind.__name__}")
    return value


def _checked(source: Path | str, questions: Iterable[Question], unanswerable: bool) -> list[Question]:
    """Return the questions as a list; raise `DataError` at the first that contradicts its context or another one."""
    checked: dict[str, Question] = {}
    for question in questions:
        where = f"{source}: question {question.id}"
        if question.id in checked:
            raise DataError(f"{where} occurs twice; ids are unique, as predictions are kept by id")
        if not question.answers and not unanswerable:
            raise DataError(f"{where} has no answer; questions without one are SQuAD 2.0's: give --task squad2")
        for answer in question.answers:
            found = question.context[max(answer.start, 0) :][: len(answer.text)]
            if not answer.text or answer.start < 0 or found != answer.text:
                raise DataError(
                    f"{where}: the context has {found!r} at answer_start {answer.start}, expected the answer "
                    f"{answer.text!r}; answer_start counts the context's characters from 0"
                )
        checked[question.id] = question
    if not checked:
        raise DataError(f"{source} has no questions; expected a file of SQuAD's format")
    return list(checked.values())
