"""Exact match and F1 of answers, as the official evaluation scripts of SQuAD 1.1 and 2.0 compute them.

Rajpurkar et al. 2016 (arXiv:1606.05250) and 2018 (arXiv:1806.03822). All scores are percentages and have the names that
the scripts print.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Collection, Mapping, Sequence, Set

_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")

GoldAnswers = Mapping[str, Sequence[str]]
"""The gold answers of each question by its id; none for a question that the text does not answer."""


def normalize_answer(text: str) -> str:
    """Return the text in lowercase, without ASCII punctuation and articles, and with one space between words."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_WITHOUT_PUNCTUATION)).split())


def exact_match(prediction: str, gold: str) -> float:
    """Return 1 if both are equal after normalization, else 0."""
    return float(normalize_answer(prediction) == normalize_answer(gold))


def f1(prediction: str, gold: str) -> float:
    """Return the harmonic mean of precision and recall over normalized words; 0 if no word is shared."""
    predicted, expected = normalize_answer(prediction).split(), normalize_answer(gold).split()
    common = (Counter(predicted) & Counter(expected)).total()
    return 2 * common / (len(predicted) + len(expected)) if common else 0.0


def squad_1_scores(gold_answers: GoldAnswers, predictions: Mapping[str, str]) -> dict[str, float]:
    """Return `exact_match` and `f1` over all questions: each by its best gold answer, 0 without a prediction."""
    exact, overlap = [], []
    for question, golds in gold_answers.items():
        answered = question in predictions
        exact.append(max(exact_match(predictions[question], gold) for gold in golds) if answered else 0.0)
        overlap.append(max(f1(predictions[question], gold) for gold in golds) if answered else 0.0)
    return {"exact_match": _percentage(exact), "f1": _percentage(overlap)}


def squad_2_scores(
    gold_answers: GoldAnswers, predictions: Mapping[str, str], null_odds: Mapping[str, float], threshold: float
) -> dict[str, float]:
    """Return the scores of SQuAD 2.0.

    "No answer" is predicted where `null_odds` exceed `threshold`, whatever `predictions` has, or where the prediction
    is empty. `exact` and `f1` are over all questions, `HasAns_…` and `NoAns_…` over those with and without an answer,
    if there are any. `best_exact` and `best_f1` are the scores at the best threshold, and `best_…_thresh` is that
    threshold. `predictions` and `null_odds` have every question.
    """
    unanswerable = {question for question, golds in gold_answers.items() if not golds}
    scores: dict[str, dict[str, float]] = {"exact": {}, "f1": {}}
    for question, golds in gold_answers.items():
        prediction = predictions[question]
        # Normalization leaves nothing of some gold answers, such as a lone article or dash.
        wanted = [gold for gold in golds if normalize_answer(gold)] or [""]
        scores["exact"][question] = max(exact_match(prediction, gold) for gold in wanted)
        scores["f1"][question] = max(_f1_or_both_empty(prediction, gold) for gold in wanted)
    at_threshold = {
        name: {
            question: float(question in unanswerable) if null_odds[question] > threshold else score
            for question, score in of_questions.items()
        }
        for name, of_questions in scores.items()
    }
    result = _averages("", at_threshold, gold_answers)
    result |= _averages("HasAns_", at_threshold, gold_answers.keys() - unanswerable)
    result |= _averages("NoAns_", at_threshold, unanswerable)
    for name, of_questions in scores.items():
        best, best_threshold = best_threshold_for(of_questions, predictions, null_odds, unanswerable)
        result |= {f"best_{name}": best, f"best_{name}_thresh": best_threshold}
    return result


def best_threshold_for(
    scores: Mapping[str, float], predictions: Mapping[str, str], null_odds: Mapping[str, float], unanswerable: Set[str]
) -> tuple[float, float]:
    """Return the highest score, in percent, over all thresholds on `null_odds`, and the lowest threshold that gives it.

    `scores` are those of `predictions`. The search starts with no question answered and answers them one by one in the
    order of their odds. If nothing is better than the start, the threshold is 0, as in the official script.
    """
    total = best = float(len(unanswerable))
    threshold = 0.0
    for question in sorted(scores, key=null_odds.__getitem__):
        if question not in unanswerable:
            total += scores[question]
        elif predictions[question]:
            total -= 1
        if total > best:
            best, threshold = total, null_odds[question]
    return 100 * best / len(scores), threshold


def _f1_or_both_empty(prediction: str, gold: str) -> float:
    """Return F1 as SQuAD 2.0 defines it: an empty prediction is correct if no answer is expected."""
    if normalize_answer(prediction) and normalize_answer(gold):
        return f1(prediction, gold)
    return exact_match(prediction, gold)


def _averages(prefix: str, scores: Mapping[str, Mapping[str, float]], questions: Collection[str]) -> dict[str, float]:
    if not questions:
        return {}
    averages = {f"{prefix}{name}": _percentage([of[key] for key in questions]) for name, of in scores.items()}
    return averages | {f"{prefix}total": len(questions)}


def _percentage(scores: Sequence[float]) -> float:
    return 100 * sum(scores) / len(scores)
