from __future__ import annotations

from pathlib import Path

import pytest
from bert_large.errors import DataError, InputError
from bert_large.finetune.conll import Sentence, entities, labels_of, read_conll, to_iob2


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("O O", []),
        # IOB1: B only where an entity follows another of its type.
        ("I-PER I-PER O I-LOC", [("PER", 0, 2), ("LOC", 3, 4)]),
        ("I-PER B-PER I-PER", [("PER", 0, 1), ("PER", 1, 3)]),
        ("I-PER I-LOC", [("PER", 0, 1), ("LOC", 1, 2)]),
        # IOB2: B at every entity's first word.
        ("B-PER I-PER O B-LOC", [("PER", 0, 2), ("LOC", 3, 4)]),
        ("B-PER B-PER I-PER", [("PER", 0, 1), ("PER", 1, 3)]),
        ("B-PER I-LOC I-PER", [("PER", 0, 1), ("LOC", 1, 2), ("PER", 2, 3)]),
        # BIOES
        ("B-PER I-PER E-PER S-LOC S-LOC", [("PER", 0, 3), ("LOC", 3, 4), ("LOC", 4, 5)]),
        ("B-PER E-PER B-PER E-PER", [("PER", 0, 2), ("PER", 2, 4)]),
        # What a model may say, which is in no scheme.
        ("E-PER E-PER I-PER", [("PER", 0, 1), ("PER", 1, 2), ("PER", 2, 3)]),
        ("S-PER I-PER", [("PER", 0, 1), ("PER", 1, 2)]),
        ("B-PER O I-PER", [("PER", 0, 1), ("PER", 2, 3)]),
        ("B-PER B-PER E-LOC", [("PER", 0, 1), ("PER", 1, 2), ("LOC", 2, 3)]),
        ("B-work-of-art I-work-of-art", [("work-of-art", 0, 2)]),
    ],
)
def test_entities(tags: str, expected: list[tuple[str, int, int]]) -> None:
    assert entities(tags.split()) == expected


@pytest.mark.parametrize(
    "tags", ["I-PER B-PER I-PER O I-LOC", "B-PER B-PER I-PER O B-LOC", "S-PER B-PER E-PER O S-LOC"]
)
def test_schemes_agree(tags: str) -> None:
    assert to_iob2(tags.split()) == ["B-PER", "B-PER", "I-PER", "O", "B-LOC"]


CONLL_2003 = """-DOCSTART- -X- -X- O

U.N. NNP I-NP I-ORG
official NN I-NP O
Ekeus NNP I-NP I-PER
. . O O

-DOCSTART- -X- -X- O

Baghdad NNP I-NP I-LOC
"""


def test_columns_of_2003(tmp_path: Path) -> None:
    (tmp_path / "eng.train").write_text(CONLL_2003)
    assert read_conll(tmp_path / "eng.train") == [
        Sentence(("U.N.", "official", "Ekeus", "."), ("B-ORG", "O", "B-PER", "O")),
        Sentence(("Baghdad",), ("B-LOC",)),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "\n\na O\nb S-X\n\n\n\nc O",  # blank lines everywhere, none at the end
        "a\tO\nb\tB-X\n \t\nc\tO\n",
        "\ufeffa O\r\nb I-X\r\n\r\nc O\r\n",  # as Windows writes it
        "-DOCSTART- O\na O\nb B-X\n-DOCSTART-\nc O\n",  # a document's start also ends a sentence
    ],
)
def test_two_columns(tmp_path: Path, text: str) -> None:
    (tmp_path / "train.txt").write_text(text, newline="")
    assert read_conll(tmp_path / "train.txt") == [Sentence(("a", "b"), ("O", "B-X")), Sentence(("c",), ("O",))]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a O\nb\n", r"train.txt: line 2: 'b' has 1 columns, expected 2"),
        ("a\n", "line 1: 'a' has 1 columns, expected 2"),
        ("a NN O\nb O\n", "line 2: 'b O' has 2 columns, expected 3"),
        ("a O\n\nb PER\n", "line 3: the last column is 'PER', expected a tag: O, or B-, I-, E- or S-"),
        ("a B-\n", "the last column is 'B-'"),
        ("\n-DOCSTART- -X- O\n", "train.txt has no words"),
    ],
)
def test_malformed(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "train.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        read_conll(tmp_path / "train.txt")


def test_other_encodings_are_told(tmp_path: Path) -> None:
    (tmp_path / "esp.train").write_bytes("Espa\xf1a B-LOC\n".encode("latin-1"))
    with pytest.raises(InputError, match="is not UTF-8"):
        read_conll(tmp_path / "esp.train")


def test_labels() -> None:
    sentences = [Sentence(("a", "b"), ("B-PER", "O")), Sentence(("c", "d"), ("B-LOC", "I-LOC"))]
    assert labels_of(sentences) == ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
