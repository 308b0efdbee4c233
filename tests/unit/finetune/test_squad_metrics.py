"""SQuAD's metrics against values worked out by hand."""

from __future__ import annotations

import pytest
from bert_large.finetune.squad_metrics import exact_match, f1, normalize_answer, squad_1_scores, squad_2_scores


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Cat,  a dog!", "cat dog"),
        ("A.D. 70", "ad 70"),  # punctuation is removed first, so that A is not an article
        ("a-b", "ab"),
        ("an anthem of the theatre", "anthem of theatre"),
        ("\tthe\u00a0end\n", "end"),
        ("“quoted”", "“quoted”"),  # only ASCII punctuation is removed
        ("ÉTUDE", "étude"),
        ("the", ""),
        ("", ""),
    ],
)
def test_normalization(text: str, expected: str) -> None:
    assert normalize_answer(text) == expected


@pytest.mark.parametrize(
    ("prediction", "gold", "exact", "overlap"),
    [
        ("the Denver Broncos", "Denver Broncos.", 1, 1),
        ("Denver", "Denver Broncos", 0, 2 / 3),  # precision 1, recall 1/2
        ("Denver Denver Broncos", "Denver Broncos Denver won", 0, 6 / 7),  # precision 3/3, recall 3/4
        ("Denver Denver", "Denver", 0, 2 / 3),  # a word counts at most as often as in the gold answer
        ("Carolina", "Denver", 0, 0),
        ("the", "a", 1, 0),  # both are empty after normalization: the script of 1.1 finds no common words
    ],
)
def test_one_answer(prediction: str, gold: str, exact: float, overlap: float) -> None:
    assert exact_match(prediction, gold) == exact
    assert f1(prediction, gold) == pytest.approx(overlap)


def test_squad_1_takes_the_best_gold_answer() -> None:
    golds = {"q1": ["Santa Clara", "Santa Clara, California"], "q2": ["1854", "in 1854"], "q3": ["never asked"]}
    predictions = {"q1": "Santa Clara California", "q2": "year 1854"}
    # q1: 1, 1. q2: 0; against "1854" precision 1/2, recall 1: 2/3; against "in 1854" 1/2. q3: not answered.
    assert squad_1_scores(golds, predictions) == pytest.approx({"exact_match": 100 / 3, "f1": 100 * (1 + 2 / 3) / 3})


GOLDS = {"a": ["Paris"], "b": ["the river Seine", "Seine"], "c": [], "d": [], "e": ["the"]}
PREDICTIONS = {"a": "Paris", "b": "river", "c": "France", "d": "", "e": ""}
# exact, F1 before a threshold: a 1, 1; b 0, 2/3 (precision 1, recall 1/2); c 0, 0; d 1, 1; e 1, 1: its gold
# answer is empty after normalization, as is the prediction.
ODDS = {"a": -2.0, "b": 1.0, "c": 3.0, "d": 2.0, "e": -1.0}


def test_squad_2_counts_questions_without_answers() -> None:
    """Threshold 2: only c is above, and correct."""
    scores = squad_2_scores(GOLDS, PREDICTIONS, ODDS, threshold=2.0)
    assert {name: value for name, value in scores.items() if not name.startswith("best")} == pytest.approx(
        {
            "exact": 100 * 4 / 5,
            "f1": 100 * (4 + 2 / 3) / 5,
            "total": 5,
            "HasAns_exact": 100 * 2 / 3,
            "HasAns_f1": 100 * (2 + 2 / 3) / 3,
            "HasAns_total": 3,
            "NoAns_exact": 100,
            "NoAns_f1": 100,
            "NoAns_total": 2,
        }
    )


def test_squad_2_threshold_replaces_answers_by_none() -> None:
    """Threshold -1.5: b to e are not answered, which is correct for c and d and wrong for b and e."""
    scores = squad_2_scores(GOLDS, PREDICTIONS, ODDS, threshold=-1.5)
    assert (scores["exact"], scores["HasAns_f1"], scores["NoAns_f1"]) == pytest.approx((60, 100 / 3, 100))


def test_best_threshold() -> None:
    """In the order of odds a, e, b, d, c; none answered: 2 of 5 (c, d).

    exact: a 3, e 4, b 4, d 4 (still not answered), c 3. F1: a 3, e 4, b 4 2/3, d 4 2/3, c 3 2/3. The first of
    equals counts.
    """
    scores = squad_2_scores(GOLDS, PREDICTIONS, ODDS, threshold=0.0)
    assert (scores["best_exact"], scores["best_exact_thresh"]) == (80, -1.0)
    assert (scores["best_f1"], scores["best_f1_thresh"]) == pytest.approx((100 * (4 + 2 / 3) / 5, 1.0))


def test_best_threshold_of_wrong_answers_is_zero() -> None:
    """No threshold is better than the start: the official script then reports the threshold that it starts with."""
    scores = squad_2_scores({"a": ["Paris"], "b": []}, {"a": "Rome", "b": "Rome"}, {"a": -5.0, "b": -3.0}, 0.0)
    assert (scores["best_exact"], scores["best_exact_thresh"], scores["best_f1"], scores["best_f1_thresh"]) == (
        50, 0, 50, 0,
    )  # fmt: skip


def test_parts_without_questions_are_left_out() -> None:
    scores = squad_2_scores({"a": ["Paris"]}, {"a": "Paris"}, {"a": 0.0}, threshold=0.0)
    assert "NoAns_total" not in scores
    assert (scores["HasAns_total"], scores["exact"]) == (1, 100)  # odds equal to the threshold: answered
