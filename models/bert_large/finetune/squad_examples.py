"""Questions of SQuAD 1.1 and 2.0: read from the official JSON files, or from rows of `datasets`.

Format: `{"data": [{"paragraphs": [{"context": …, "qas": [{"id": …, "question": …, "answers": [{"text": …,
"answer_start": …}], "is_impossible": …}]}]}]}`; `is_impossible` is new in 2.0, `answer_start` counts code points.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bert_large.errors import DataError
from bert_large.finetune.data_files import read_json
from bert_large.log import LOGGER

_NAMED = 3


@dataclass(frozen=True, slots=True)
class Answer:
    """A gold answer: its text, and the code point of the context at which it starts."""

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
        """Return the row that `from_row` reads."""
        texts, starts = [answer.text for answer in self.answers], [answer.start for answer in self.answers]
        answers = {"text": texts, "answer_start": starts}
        return {"id": self.id, "question": self.text, "context": self.context, "answers": answers}


def read_squad(path: Path, *, unanswerable: bool) -> list[Question]:
    """Read an official file; raise `DataError`, which names the file and the question, where it breaks its format.

    `unanswerable`: questions may have no answer, as in 2.0.
    """
    return _checked(path, _questions(path, read_json(path)), unanswerable)


def from_rows(source: str, rows: Iterable[Mapping[str, Any]], *, unanswerable: bool) -> list[Question]:
    """Return the questions of `rajpurkar/squad` or `squad_v2`; errors are those of `read_squad`, naming `source`."""
    return _checked(source, map(Question.from_row, rows), unanswerable)


def locate_answers(source: Path | str, questions: Iterable[Question]) -> list[Question]:
    """Return questions for training, whose answers are in the context at their start.

    BERT's own code accepts an answer whose white space differs from the context's, and skips with a warning a question
    whose answer is not among the words at `answer_start`; so does this. Only training needs the places of answers.
    """
    located, skipped = [], []
    for question in questions:
        found = tuple(filter(None, (_locate(question.context, answer) for answer in question.answers)))
        if found or not question.answers:
            located.append(replace(question, answers=found))
        else:
            skipped.append(question.id)
    if skipped:
        more = ", …" if len(skipped) > _NAMED else ""
        text = (
            f"{source}: {len(skipped)} of {len(skipped) + len(located)} questions have no answer in their context at "
            f"answer_start, which counts characters from 0 ({', '.join(skipped[:_NAMED])}{more})"
        )
        if not located:
            raise DataError(f"{text}; expected a file of SQuAD's format")
        LOGGER.warning("%s; they are skipped", text)
    return located


def _locate(context: str, answer: Answer) -> Answer | None:
    """Return the answer as the context has it, or None if it is not among the words that it should overlap."""
    words = answer.text.split()
    if not words or not 0 <= answer.start < len(context):
        return None
    if context.startswith(answer.text, answer.start):
        return answer
    # The words of the context that the characters [start, start + length) touch; a blank belongs to the word before.
    begin = len(context[: answer.start + 1].rstrip())
    end = len(context[: answer.start + len(answer.text)].rstrip())
    while begin and not context[begin - 1].isspace():
        begin -= 1
    while end < len(context) and not context[end].isspace():
        end += 1
    pattern = re.compile(r"\s+".join(map(re.escape, words)))
    places = [match.span() for match in pattern.finditer(context, begin, end)]
    if not places:
        return None
    first, last = min(places, key=lambda place: abs(place[0] - answer.start))
    return Answer(context[first:last], first)


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
    found = _member(question, "answers", list, where)
    answers = tuple(Answer(_member(answer, "text", str, where), _start_of(answer)) for answer in found)
    impossible = isinstance(question, dict) and question.get("is_impossible", not answers)
    if impossible is not (not answers):
        raise DataError(
            f"{where}: is_impossible is {impossible!r}, with {len(answers)} answers; expected true without answers, "
            "else false"
        )
    return Question(identifier, _member(question, "question", str, where), context, answers)


def _start_of(answer: Any) -> int:
    """Return where an answer starts; -1, which training skips, where that is not a number."""
    start = answer.get("answer_start")
    return start if type(start) is int and abs(start) < 2**31 else -1


def _member(container: object, name: str, kind: type, where: str) -> Any:
    """Return the member `name` of a JSON object; raise `DataError` if it is missing or not of the type `kind`."""
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
        checked[question.id] = question
    if not checked:
        raise DataError(f"{source} has no questions; expected a file of SQuAD's format")
    return list(checked.values())
