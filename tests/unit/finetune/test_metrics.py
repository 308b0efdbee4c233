"""Metrics of classification and regression against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from bert_large.finetune.metrics import (
    accuracy,
    accuracy_and_f1,
    accuracy_and_macro_f1,
    correlations,
    matthews_correlation,
)

LABELS = np.array([1, 1, 1, 0, 0, 0, 0, 1])
FOUND = np.array([1, 1, 0, 0, 1, 0, 0, 0])
"""True positives 2, false negatives 2, false positives 1, true negatives 3."""


def test_accuracy() -> None:
    assert accuracy(LABELS, FOUND) == {"accuracy": 5 / 8}


def test_f1_and_the_average() -> None:
    precision, recall = 2 / 3, 2 / 4
    f1 = 2 * precision * recall / (precision + recall)  # 4/7
    assert accuracy_and_f1(LABELS, FOUND) == pytest.approx({"accuracy": 5 / 8, "f1": f1, "average": (5 / 8 + f1) / 2})


def test_f1_of_a_class_that_never_occurs_is_zero() -> None:
    none = np.zeros(3, int)
    assert accuracy_and_f1(none, none) == {"accuracy": 1.0, "f1": 0.0, "average": 0.5}


def test_macro_f1() -> None:
    """F1 of class 1 is 4/7, of class 0 with 3 true positives, 2 false positives and 1 false negative 6/9."""
    assert accuracy_and_macro_f1(LABELS, FOUND) == pytest.approx({"accuracy": 5 / 8, "macro_f1": (4 / 7 + 6 / 9) / 2})


def test_matthews_correlation() -> None:
    expected = (2 * 3 - 1 * 2) / math.sqrt((2 + 1) * (2 + 2) * (3 + 1) * (3 + 2))
    assert matthews_correlation(LABELS, FOUND) == pytest.approx({"matthews_correlation": expected})
    assert matthews_correlation(LABELS, np.ones(8, int)) == {"matthews_correlation": 0.0}


def test_correlations() -> None:
    """Deviations are -1.5 -0.5 0.5 1.5 and -1.75 -0.75 2.25 0.25; two ranks differ, by 1."""
    pearson = (1.5 * 1.75 + 0.5 * 0.75 + 0.5 * 2.25 + 1.5 * 0.25) / math.sqrt(
        5 * (1.75**2 + 0.75**2 + 2.25**2 + 0.25**2)
    )
    spearman = 1 - 6 * (1 + 1) / (4 * (16 - 1))
    found = correlations(np.array([0.0, 1, 2, 3]), np.array([0.0, 1, 4, 2]))
    assert found == pytest.approx({"pearson": pearson, "spearman": spearman, "average": (pearson + spearman) / 2})


def test_correlations_of_constants_are_zero() -> None:
    assert correlations(np.array([1.0, 2]), np.array([3.0, 3])) == {"pearson": 0.0, "spearman": 0.0, "average": 0.0}
