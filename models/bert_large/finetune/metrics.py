"""Metrics of classification and regression, by scikit-learn and SciPy, as fractions.

Arguments: labels and predictions, one per example.
"""

from __future__ import annotations

import math

import numpy as np


def accuracy(labels: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Return the share of correct predictions."""
    from sklearn.metrics import accuracy_score

    return {"accuracy": float(accuracy_score(labels, predicted))}


def accuracy_and_f1(labels: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Return accuracy, F1 of class 1, and their average, which is GLUE's score; F1 is 0 if class 1 never occurs."""
    from sklearn.metrics import f1_score

    return _with_average(accuracy(labels, predicted) | {"f1": float(f1_score(labels, predicted, zero_division=0))})


def accuracy_and_macro_f1(labels: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Return accuracy, and the mean F1 of the classes that occur; F1 of a class that is never found is 0."""
    from sklearn.metrics import f1_score

    macro = f1_score(labels, predicted, average="macro", zero_division=0)
    return accuracy(labels, predicted) | {"macro_f1": float(macro)}


def matthews_correlation(labels: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Return Matthews' correlation coefficient; 0 if all labels or all predictions are equal."""
    from sklearn.metrics import matthews_corrcoef

    return {"matthews_correlation": float(matthews_corrcoef(labels, predicted))}


def correlations(labels: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Return Pearson's and Spearman's correlation, and their average, which is GLUE's score.

    If all labels or all predictions are equal, no correlation is defined; it counts as 0, as Matthews' does.
    """
    from scipy.stats import pearsonr, spearmanr

    if np.ptp(labels) == 0 or np.ptp(predicted) == 0:
        return _with_average({"pearson": 0.0, "spearman": 0.0})
    found = {"pearson": pearsonr(labels, predicted).statistic, "spearman": spearmanr(labels, predicted).statistic}
    return _with_average({name: float(value) if math.isfinite(value) else 0.0 for name, value in found.items()})


def _with_average(values: dict[str, float]) -> dict[str, float]:
    return values | {"average": sum(values.values()) / len(values)}
