"""Scores of entities against values worked out by hand."""

from __future__ import annotations

import pytest
from bert_large.finetune.conll import entity_scores


def test_by_hand() -> None:
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


def test_an_entity_ends_with_its_sentence() -> None:
    scores = entity_scores([(["B-PER"], ["B-PER"]), (["I-PER"], ["B-PER"])])
    assert (scores["f1"], scores["accuracy"]) == (100, 50)


def test_nothing_found_and_nothing_there() -> None:
    scores = entity_scores([(["O", "O"], ["O", "O"])], types=["PER"])
    assert scores == {
        "accuracy": 100, "precision": 0, "recall": 0, "f1": 0, "PER_precision": 0, "PER_recall": 0, "PER_f1": 0,
    }  # fmt: skip
