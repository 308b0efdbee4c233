"""CoNLL files, tagging schemes, and scores of entities against values worked out by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from bert_large.errors import DataError, InputError
from bert_large.finetune.conll import Sentence, entities, entity_scores, labels_of, read_conll, to_iob2


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
        # Predictions of a model, which follow no scheme.
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


def test_types_that_the_model_does_not_have_are_refused(tmp_path: Path) -> None:
    """Whatever the scheme of the tags; no type is refused where none is expected."""
    path = tmp_path / "dev.txt"
    path.write_text("a O\nb S-PER\nc B-LOC\n")
    assert read_conll(path) == read_conll(path, {"LOC", "PER"}) == [Sentence(("a", "b", "c"), ("O", "B-PER", "B-LOC"))]
    with pytest.raises(DataError, match=r"dev.txt: line 3: .*'B-LOC'.*PER"):
        read_conll(path, {"PER"})


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


def test_a_no_break_space_is_a_word(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("a O\n\u00a0 O\nb\u3000 B-X\n")
    assert read_conll(tmp_path / "train.txt") == [Sentence(("a", "\u00a0", "b\u3000"), ("O", "O", "B-X"))]


@pytest.mark.parametrize(
    ("text", "where"),
    [
        (b"a O\nb\n", "line 2: 'b'"),
        (b"a\n", "line 1: 'a'"),
        (b"a NN O\nb O\n", "line 2: 'b O'"),
        (b"a O\n\nb PER\n", "line 3: the last column is 'PER'"),
        (b"a B-\n", "line 1: the last column is 'B-'"),
        (b"\n-DOCSTART- -X- O\n", ""),
        ("Espa\xf1a B-LOC\n".encode("latin-1"), "line 1: byte 5 is 0xf1"),
    ],
)
def test_errors_name_file_and_line(tmp_path: Path, text: bytes, where: str) -> None:
    (tmp_path / "train.txt").write_bytes(text)
    with pytest.raises(InputError) as error:
        read_conll(tmp_path / "train.txt")
    assert str(error.value).startswith(str(tmp_path / "train.txt")) and where in str(error.value)


def test_labels() -> None:
    sentences = [Sentence(("a", "b"), ("B-PER", "O")), Sentence(("c", "d"), ("B-LOC", "I-LOC"))]
    assert labels_of(sentences) == ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]


def test_scores_by_hand() -> None:
    """5 gold entities, 4 found, 2 correct; 9 of 12 words have the correct tag.

    PER: 3 gold, 2 found, 1 correct (the other ends early); LOC: 2 gold, 1 found, 1 correct; ORG: 1 found.
    """
    gold = "B-PER I-PER O B-LOC | B-PER I-PER O B-LOC | B-PER O O O"
    predicted = "B-PER I-PER O B-LOC | B-PER O O B-ORG | O O O O"
    pairs = [
        (expected.split(), found.split()) for expected, found in zip(gold.split("|"), predicted.split("|"), strict=True)
    ]
    assert entity_scores(pairs) == pytest.approx(
        {
            "accuracy": 100 * 9 / 12,
            "precision": 50.0,
            "recall": 40.0,
            "f1": 100 * 4 / 9,
            "PER_precision": 50.0,
            "PER_recall": 100 / 3,
            "PER_f1": 40.0,
            "LOC_precision": 100.0,
            "LOC_recall": 50.0,
            "LOC_f1": 200 / 3,
            "ORG_precision": 0.0,
            "ORG_recall": 0.0,
            "ORG_f1": 0.0,
        }
    )


def test_scored_entities_end_with_their_sentence() -> None:
    scores = entity_scores([(["B-PER"], ["B-PER"]), (["I-PER"], ["B-PER"])])
    assert (scores["f1"], scores["accuracy"]) == (100, 50)


def test_scores_of_nothing_found_and_nothing_there() -> None:
    scores = entity_scores([(["O", "O"], ["O", "O"])], types=["PER"])
    assert scores == {
        "accuracy": 100, "precision": 0, "recall": 0, "f1": 0, "PER_precision": 0, "PER_recall": 0, "PER_f1": 0,
    }  # fmt: skip
