"""GLUE's metrics, by scikit-learn and SciPy, as fractions of one. Arguments: labels and predictions, [examples]."""

from __future__ import annotations

import math

import numpy as np


def accuracy(labels: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Return the share of right predictions."""
    from sklearn.metrics import accuracy_score

    return {"accuracy": float(accuracy_score(labels, predicted))}


def accuracy_and_f1(labels: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Return accuracy, F1 of class 1, and their average, which is GLUE's score; F1 without any class 1 is 0."""
    from sklearn.metrics import f1_score

    return _with_average(accuracy(labels, predicted) | {"f1": float(f1_score(labels, predicted, zero_division=0))})


def matthews_correlation(labels: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Return Matthews' correlation coefficient; 0 where all labels or all predictions are the same."""
    from sklearn.metrics import matthews_corrcoef

    return {"matthews_correlation": float(matthews_corrcoef(labels, predicted))}


def correlations(labels: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Return Pearson's and Spearman's correlation, and their average, which is GLUE's score.

    Where all values of one side are the same no correlation is defined: it is 0, as Matthews' is.
    """
    from scipy.stats import pearsonr, spearmanr

    if np.ptp(labels) == 0 or np.ptp(predicted) == 0:
        return _with_average({"pearson": 0.0, "spearman": 0.0})
    found = {"pearson": pearsonr(labels, predicted).statistic, "spearman": spearmanr(labels, predicted).statistic}
    return _with_average({name: float(value) if math.isfinite(value) else 0.0 for name, value in found.items()})


def _with_average(figures: dict[str, float]) -> dict[str, float]:
    return figures | {"average": sum(figures.values()) / len(figures)}
