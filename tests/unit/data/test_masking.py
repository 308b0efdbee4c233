"""Dynamic masking: BERT's rule, as a function of the seed and the sample number only."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from bert_large.data.masking import DynamicMasking
from bert_large.data.record import Record
from bert_large.errors import InputError
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.support.records import assert_same_record

CLS, SEP, MASK, WORDS = 2, 3, 4, 5000
MASKING = DynamicMasking(seed=7, max_predictions=20, vocab_size=WORDS, cls_id=CLS, sep_id=SEP, mask_id=MASK)


def make_text(rng: np.random.Generator, length: int) -> NDArray[np.int32]:
    """Return [CLS] A [SEP] B [SEP] of `length` tokens, at least 5."""
    ids = rng.integers(5, WORDS, length).astype(np.int32)
    ids[0], ids[-1], ids[rng.integers(2, length - 2)] = CLS, SEP, SEP
    return ids


def masked(ids: NDArray[np.int32], positions: Sequence[int], shown: int = MASK) -> Record:
    """Return a record of a text with masks at `positions`."""
    at = np.array(positions, dtype=np.int32)
    changed = ids.copy()
    changed[at] = shown
    return Record(changed, np.zeros(len(ids), np.uint8), at, ids[at], 1)


def original(record: Record) -> list[int]:
    ids = record.input_ids.copy()
    ids[record.masked_positions] = record.masked_ids
    return ids.tolist()


def texts_of(lengths: Sequence[int], seed: int = 0) -> list[NDArray[np.int32]]:
    rng = np.random.default_rng(seed)
    return [make_text(rng, length) for length in lengths]


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(5, 160), min_size=1, max_size=6), st.integers(0, 2**62), st.integers(0, 2**63 - 1))
def test_the_rule(lengths: list[int], first_sample: int, seed: int) -> None:
    """As many predictions as `create_pretraining_data` makes, never of special tokens; the text stays the same."""
    texts = texts_of(lengths)
    records = [masked(text, [1, len(text) - 2]) for text in texts]
    drawn = dataclasses.replace(MASKING, seed=seed).draw(records, range(first_sample, first_sample + len(records)))
    for text, before, after in zip(texts, records, drawn, strict=True):
        assert original(after) == text.tolist()
        candidates = [index for index, token in enumerate(text.tolist()) if token not in (CLS, SEP)]
        positions = after.masked_positions.tolist()
        assert len(positions) == min(20, max(1, round(0.15 * len(text))), len(candidates))
        assert positions == sorted(set(positions)) and set(positions) <= set(candidates)
        assert after.input_ids.max() < WORDS and after.input_ids.min() >= 0
        for name in ("input_ids", "masked_positions", "masked_ids"):
            assert getattr(after, name).dtype == np.int32
        assert after.next_sentence_label == before.next_sentence_label
        assert after.token_type_ids is before.token_type_ids
        assert before.masked_positions.tolist() == [1, len(text) - 2]  # the record that was read is as it was


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 8), st.permutations(range(8)))
def test_a_sample_is_masked_alike_in_any_company(together: int, order: list[int]) -> None:
    """However a global batch is dealt to ranks and cut into micro-batches, and whatever its records' own masks were."""
    texts = texts_of([5, 8, 30, 128, 17, 64, 99, 128])
    alone = [MASKING.draw([masked(text, [1])], [100 + number])[0] for number, text in enumerate(texts)]
    for start in range(0, len(order), together):
        part = order[start : start + together]
        drawn = MASKING.draw([masked(texts[number], [len(texts[number]) - 2], 9) for number in part],
                             np.array(part) + 100)  # fmt: skip
        for number, record in zip(part, drawn, strict=True):
            assert_same_record(record, alone[number])


def test_shares() -> None:
    """Each within five standard deviations of its binomial distribution, over 2000 records of 128 tokens."""
    texts = texts_of([128] * 2000)
    drawn = MASKING.draw([masked(text, [1]) for text in texts], range(2000))
    labels = np.concatenate([record.masked_ids for record in drawn])
    shown = np.concatenate([record.input_ids[record.masked_positions] for record in drawn])
    assert len(labels) == 2000 * 19

    def check(found: int, trials: int, probability: float) -> None:
        assert abs(found - trials * probability) < 5 * math.sqrt(trials * probability * (1 - probability))

    is_mask, is_kept = shown == MASK, shown == labels
    check(int(is_mask.sum()), len(labels), 0.8 + 0.1 / WORDS)
    check(int(is_kept.sum()), len(labels), 0.1 + 0.1 / WORDS)
    words = shown[~is_mask & ~is_kept]
    check(len(words), len(labels), 0.1 * (1 - 2 / WORDS))
    check(int((words < WORDS // 4).sum()), len(words), 0.25)  # any word, evenly
    check(int((words % 2).sum()), len(words), 0.5)
    assert words.min() < 50 and words.max() > WORDS - 50
    # Every position but those of special tokens is chosen as often as another.
    chosen = np.bincount(np.concatenate([record.masked_positions for record in drawn]), minlength=128)
    possible = sum((text != CLS) & (text != SEP) for text in texts)
    assert chosen[0] == chosen[127] == 0
    for position in range(1, 127):
        check(int(chosen[position]), int(possible[position]), 19 / 125)


def test_another_epoch_or_seed_masks_otherwise() -> None:
    """As often alike as chance has it: 19 of 125 of the positions."""
    records = [masked(text, [1]) for text in texts_of([128] * 400)]
    first = MASKING.draw(records, range(400))
    again = MASKING.draw(records, range(400))
    for other in (
        MASKING.draw(records, range(400, 800)),
        dataclasses.replace(MASKING, seed=8).draw(records, range(400)),
    ):
        common = [
            len(np.intersect1d(one.masked_positions, two.masked_positions))
            for one, two in zip(first, other, strict=True)
        ]
        assert 19 * 19 / 125 * 0.9 < np.mean(common) < 19 * 19 / 125 * 1.1
    for one, two in zip(first, again, strict=True):
        assert_same_record(one, two)


def test_masks_never_change() -> None:
    """A run that was started with an earlier version continues with the same masks."""
    (record,) = MASKING.draw([masked(texts_of([40])[0], [3])], [12345])
    assert (record.masked_positions.tolist(), record.input_ids[record.masked_positions].tolist()) == (
        [11, 15, 18, 19, 20, 33],
        [4, 4, 4, 4, 4, 1412],
    )


def test_fewer_candidates_than_predictions() -> None:
    nothing = np.array([CLS, SEP, SEP], dtype=np.int32)
    one = np.array([CLS, 9, SEP, SEP], dtype=np.int32)
    first, second = MASKING.draw([masked(nothing, []), masked(one, [1])], [0, 1])
    assert (first.masked_positions.tolist(), original(first)) == ([], [CLS, SEP, SEP])
    assert (second.masked_positions.tolist(), original(second)) == ([1], one.tolist())


def test_at_most_the_predictions_of_a_record() -> None:
    (text,) = texts_of([512])
    (record,) = dataclasses.replace(MASKING, max_predictions=76).draw([masked(text, [1])], [0])
    assert len(record.masked_ids) == 76


@pytest.mark.parametrize("ids", [[9, 10, SEP], [CLS, 10, 11], [SEP, 10, CLS]])
def test_records_of_another_vocabulary_are_refused(ids: list[int]) -> None:
    MASKING.check(masked(np.array([CLS, 10, SEP], np.int32), [1]))
    with pytest.raises(InputError, match=rf"--dynamic-masking: .* {ids[0]} .* {ids[-1]}, .*--vocab-file"):
        MASKING.check(masked(np.array(ids, np.int32), [1]))


CONTINUES = np.arange(WORDS) % 3 == 0
"""A third of the tokens continue words, so that words have one to several tokens."""


def unit_masking(unit: str, rate: float = 0.15, **changes: Any) -> DynamicMasking:
    values: dict[str, Any] = {"unit": unit, "rate": rate, "continues_word": CONTINUES, "max_predictions": 400}
    return dataclasses.replace(MASKING, **values | changes)


def words_of(ids: NDArray[np.int32]) -> list[range]:
    """Return the words of a text as ranges of positions."""
    words: list[range] = []
    for position, token in enumerate(ids.tolist()):
        if token in (CLS, SEP):
            continue
        if words and words[-1].stop == position and CONTINUES[token]:
            words[-1] = range(words[-1].start, position + 1)
        else:
            words.append(range(position, position + 1))
    return words


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(5, 160), min_size=1, max_size=6), st.sampled_from(["word", "span"]),
       st.sampled_from([0.15, 0.4, 0.9]), st.integers(0, 2**62))  # fmt: skip
def test_whole_words(lengths: list[int], unit: str, rate: float, first_sample: int) -> None:
    """Words are predicted as a whole or not at all, up to the number of tokens that the rate gives."""
    texts = texts_of(lengths)
    drawn = unit_masking(unit, rate).draw([masked(text, [1]) for text in texts], range(first_sample, first_sample + 99))
    for text, record in zip(texts, drawn, strict=False):
        assert original(record) == text.tolist()
        chosen, words = set(record.masked_positions.tolist()), words_of(text)
        whole = [word for word in words if chosen.issuperset(word)]
        assert chosen == {position for word in whole for position in word} and whole
        wanted, others = max(1, round(rate * len(text))), [word for word in words if word not in whole]
        assert len(chosen) <= wanted or len(whole) == 1
        # No word that was left out would fit.
        assert all(len(word) > wanted - len(chosen) for word in others)
        assert record.masked_ids.tolist() == text[record.masked_positions].tolist()


@pytest.mark.parametrize("unit", ["token", "word", "span"])
@pytest.mark.parametrize("rate", [0.15, 0.3, 0.4])
def test_the_rate(unit: str, rate: float) -> None:
    """Of all tokens, whatever the unit; every word is chosen about equally often."""
    texts = texts_of([128] * 600)
    drawn = unit_masking(unit, rate).draw([masked(text, [1]) for text in texts], range(600))
    share = np.mean([len(record.masked_ids) for record in drawn]) / 128
    assert share == pytest.approx(round(rate * 128) / 128, abs=0.002)
    chosen = np.bincount(np.concatenate([record.masked_positions for record in drawn]), minlength=128)[8:120] / 600
    assert chosen.min() > 0.6 * rate and chosen.max() < 1.5 * rate


def test_lengths_of_spans() -> None:
    """Geometric from 1 to 10 words, normalized, at a rate so low that spans do not meet: SpanBERT's mean is 3.8."""
    probabilities = 0.8 ** np.arange(10) * 0.2 / (1 - 0.8**10)
    assert probabilities @ np.arange(1, 11) == pytest.approx(3.8, abs=0.01)
    masking = unit_masking("span", 0.1, continues_word=np.zeros(WORDS, bool))
    texts = [
        np.concatenate([[CLS], text[text > MASK][:400], [SEP]]).astype(np.int32) for text in texts_of([500] * 3000)
    ]
    # A random first span: the one that contains the token with the smallest random number is not cut by the rate.
    lengths = []
    for record in masking.draw([masked(text, [1]) for text in texts], range(3000)):
        runs = np.split(record.masked_positions, np.flatnonzero(np.diff(record.masked_positions) > 1) + 1)
        lengths += [len(run) for run in runs]
    counts = np.bincount(lengths, minlength=11)
    # Some spans touch, are cut by the rate or by the end, so the counts agree only roughly.
    found = counts[1:11] / counts.sum()
    assert np.abs(found - probabilities).max() < 0.03
    assert np.mean(np.minimum(lengths, 10)) == pytest.approx(3.8, abs=0.25)


def test_a_span_is_shown_in_one_way() -> None:
    """All [MASK], all unchanged, or all random words, in shares of 80, 10 and 10%; words and tokens are mixed."""
    texts = texts_of([128] * 3000, seed=1)
    mixed = {}
    for unit in ("span", "word"):
        kinds: list[int] = []
        mixed[unit] = 0
        for record in unit_masking(unit).draw([masked(text, [1]) for text in texts], range(3000)):
            shown = record.input_ids[record.masked_positions]
            kind = np.where(shown == MASK, 0, np.where(shown == record.masked_ids, 1, 2))
            runs = np.split(kind, np.flatnonzero(np.diff(record.masked_positions) > 1) + 1)
            mixed[unit] += sum(len(set(run.tolist())) > 1 for run in runs)
            kinds += [run[0] for run in runs]
        assert np.bincount(kinds) / len(kinds) == pytest.approx([0.8, 0.1, 0.1], abs=0.015)
    assert mixed["span"] < 0.5 * mixed["word"]


def test_units_do_not_depend_on_the_company() -> None:
    texts = texts_of([5, 8, 30, 128, 17, 64])
    for unit in ("word", "span"):
        masking = unit_masking(unit)
        together = masking.draw([masked(text, [1]) for text in texts], range(6))
        for number, text in enumerate(texts):
            (alone,) = masking.draw([masked(text, [len(text) - 2], 9)], [number])
            assert_same_record(alone, together[number])


def test_a_record_of_one_long_word_has_a_prediction() -> None:
    ids = np.array([CLS, 10, *[9] * 9, SEP], dtype=np.int32)
    for unit in ("word", "span"):
        (record,) = unit_masking(unit).draw([masked(ids, [1])], [0])
        assert record.masked_positions.tolist() == list(range(1, 11))


def test_description() -> None:
    """That of the usual masking is the same as in earlier versions, which recorded it."""
    usual = "5000 words, [CLS] 2, [SEP] 3, [MASK] 4"
    assert MASKING.description == usual
    assert dataclasses.replace(MASKING, rate=0.4).description == f"{usual}; rate 0.4"
    assert unit_masking("span", 0.2).description == f"{usual}, 1667 of them continue a word; rate 0.2; unit span"
