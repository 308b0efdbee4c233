"""Sentences with entity tags in the files of the CoNLL shared tasks: tagging schemes, and conlleval's metrics.

A line is a word and its tag, with or without columns between them (CoNLL-2003 has part of speech and chunk), separated
by spaces or tabs. A blank line ends a sentence, and so does a line that begins with -DOCSTART-, which is not a word.
Tjong Kim Sang and De Meulder 2003 (https://aclanthology.org/W03-0419).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from bert_large.errors import DataError
from bert_large.finetune.data_files import read_lines

OUTSIDE = "O"
_DOCUMENT_START = "-DOCSTART-"
_SEPARATORS = " \t"
"""Other white space, such as a no-break space, can be a word."""
_TAG = re.compile(r"O|[BIES]-\S+")


class Entity(NamedTuple):
    """An entity of a sentence: its type, its first word and the word after its last."""

    type: str
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Sentence:
    """The words of a sentence, and for each its tag in the scheme IOB2."""

    words: tuple[str, ...]
    tags: tuple[str, ...]


def read_conll(path: Path, types: Collection[str] | None = None) -> list[Sentence]:
    """Read a file with tags in IOB1, IOB2 (BIO) or BIOES; the result has the same entities in IOB2.

    Raises `DataError`, which names the file and the line, for a line without a tag or with another number of columns
    than the first, and for an entity of another type than `types`, unless that is None.
    """
    sentences: list[Sentence] = []
    rows: list[tuple[str, str]] = []
    columns = None

    def end_sentence() -> None:
        if rows:
            words, tags = zip(*rows, strict=True)
            sentences.append(Sentence(words, tuple(to_iob2(tags))))
            rows.clear()

    for number, line in read_lines(path):
        line = line.strip(_SEPARATORS)
        if not line or line.startswith(_DOCUMENT_START):
            end_sentence()
            continue
        fields = re.split(f"[{_SEPARATORS}]+", line)
        columns = columns or len(fields)
        if len(fields) < 2 or len(fields) != columns:
            raise DataError(
                f"{path}: line {number}: {line!r} has {len(fields)} columns, expected {max(columns, 2)}: a word first "
                "and its tag last, separated by spaces or tabs, the same number in every line"
            )
        if not _TAG.fullmatch(fields[-1]):
            raise DataError(
                f"{path}: line {number}: the last column is {fields[-1]!r}, expected a tag: O, or B-, I-, E- or S- and "
                "the entity's type"
            )
        if types is not None and fields[-1] != OUTSIDE and fields[-1][2:] not in types:
            raise DataError(
                f"{path}: line {number}: found the tag {fields[-1]!r}, expected O or an entity of a type that the "
                f"model is trained on: {', '.join(sorted(types))}"
            )
        rows.append((fields[0], fields[-1]))
    end_sentence()
    if not sentences:
        raise DataError(
            f"{path} has no words; expected one word and its tag per line, and blank lines between sentences"
        )
    return sentences


def entities(tags: Sequence[str]) -> list[Entity]:
    """Return the entities of a sentence's tags in IOB1, IOB2 or BIOES, in order, as conlleval finds them.

    No tagging scheme is enforced: an entity starts at B or S, after E or S, or where the previous tag is not part of an
    entity of the same type; it ends where another starts, or at O.
    """
    found: list[Entity] = []
    previous = OUTSIDE
    for position, tag in enumerate(tags):
        prefix, _, kind = tag.partition("-")
        continues = prefix in "IE" and previous[0] in "BI" and found[-1].type == kind
        if continues:
            found[-1] = found[-1]._replace(end=position + 1)
        elif tag != OUTSIDE:
            found.append(Entity(kind, position, position + 1))
        previous = tag
    return found


def to_iob2(tags: Sequence[str]) -> list[str]:
    """Return tags with the same entities in the scheme IOB2: B at the first word of each, I at the others."""
    result = [OUTSIDE] * len(tags)
    for entity in entities(tags):
        result[entity.begin : entity.end] = [f"I-{entity.type}"] * (entity.end - entity.begin)
        result[entity.begin] = f"B-{entity.type}"
    return result


def labels_of(sentences: Iterable[Sentence]) -> list[str]:
    """Return the labels of a model: O, then B and I of every type that occurs, in alphabetical order."""
    types = sorted({tag[2:] for sentence in sentences for tag in sentence.tags if tag != OUTSIDE})
    return [OUTSIDE, *(f"{prefix}-{kind}" for kind in types for prefix in "BI")]


def entity_scores(
    sentences: Iterable[tuple[Sequence[str], Sequence[str]]], types: Collection[str] = ()
) -> dict[str, float]:
    """Return the scores of sentences, each a pair of gold and predicted tags, as percentages, as conlleval counts them.

    A predicted entity is correct if a gold entity has the same type, first word and last word.
    `precision`, `recall` and `f1` are over the entities of all types; `PER_precision` and so on are over those of one
    type, for every type that occurs or is in `types`. A ratio with denominator 0 counts as 0. `accuracy` is the share
    of words whose tag is correct.
    """
    gold, predicted, correct = Counter[str](), Counter[str](), Counter[str]()
    words = correct_tags = 0
    for gold_tags, predicted_tags in sentences:
        words += len(gold_tags)
        correct_tags += sum(tag == other for tag, other in zip(gold_tags, predicted_tags, strict=True))
        expected, found = set(entities(gold_tags)), set(entities(predicted_tags))
        for counter, counted in ((gold, expected), (predicted, found), (correct, expected & found)):
            counter.update(entity.type for entity in counted)
    scores = {"accuracy": _percentage(correct_tags, words)}
    scores |= _scores("", correct.total(), predicted.total(), gold.total())
    for kind in sorted({*gold, *predicted, *types}):
        scores |= _scores(f"{kind}_", correct[kind], predicted[kind], gold[kind])
    return scores


def _scores(prefix: str, correct: int, predicted: int, gold: int) -> dict[str, float]:
    return {
        f"{prefix}precision": _percentage(correct, predicted),
        f"{prefix}recall": _percentage(correct, gold),
        f"{prefix}f1": _percentage(2 * correct, predicted + gold),
    }


def _percentage(part: int, whole: int) -> float:
    return 100 * part / whole if whole else 0.0
