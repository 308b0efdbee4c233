"""Precision, recall and F1 of entities, as conlleval of the CoNLL shared tasks counts them.

A predicted entity is correct if a gold entity has the same type, first word and last word.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence

from bert_large.finetune.conll import entities


def entity_scores(
    sentences: Iterable[tuple[Sequence[str], Sequence[str]]], types: Collection[str] = ()
) -> dict[str, float]:
    """Return the scores of sentences, each a pair of gold and predicted tags, as percentages.

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
