from __future__ import annotations

import hashlib
from collections import Counter
from itertools import pairwise
from random import Random

import numpy as np
import pytest
from bert_large.data.record import Record, RecordShape
from bert_large.errors import InputError
from bert_large.prepare import instances
from bert_large.prepare.documents import Documents
from bert_large.prepare.instances import create_instances, make_record
from bert_large.prepare.settings import InstanceSettings
from bert_large.prepare.vocab import Vocabulary

VOCABULARY = Vocabulary(tuple(map(str, range(10_000))), unk_id=1, cls_id=2, sep_id=3, mask_id=4)
FIRST_ID = 10


def make_documents(lengths: list[list[int]]) -> Documents:
    """Return documents with sentences of these lengths whose tokens count up: an id is a position in the text."""
    boundaries, end = [], 0
    for sentences in lengths:
        starts = [end]
        for length in sentences:
            end += length
            starts.append(end)
        boundaries.append(starts)
    return Documents(np.arange(FIRST_ID, FIRST_ID + end, dtype=np.int32), boundaries)


def random_documents(count: int = 40) -> Documents:
    rng = Random(3)
    return make_documents([[rng.randint(1, 30) for _ in range(rng.randint(1, 25))] for _ in range(count)])


def make_records(documents: Documents, settings: InstanceSettings) -> list[Record]:
    return [make_record(made, documents, VOCABULARY) for made in create_instances(documents, VOCABULARY, settings)]


def segments(record: Record) -> tuple[list[int], list[int]]:
    """Return A and B as they were before masking."""
    original = record.input_ids.copy()
    original[record.masked_positions] = record.masked_ids
    split = int(np.argmax(record.token_type_ids))
    assert (original[0], original[split - 1], original[-1]) == (2, 3, 3)
    return original[1 : split - 1].tolist(), original[split:-1].tolist()


def document_of(documents: Documents, token: int) -> int:
    return next(i for i, starts in enumerate(documents.boundaries) if token - FIRST_ID < starts[-1])


@pytest.mark.parametrize(
    ("setting", "value", "expected"),
    [
        ("max_seq_length", 4, "from 5"),
        ("max_predictions_per_seq", 0, "from 1"),
        ("max_predictions_per_seq", 126, "at most 125"),
        ("dupe_factor", 0, "from 1"),
        ("masked_lm_prob", 0.0, "above 0"),
        ("masked_lm_prob", 1.5, "at most 1"),
        ("short_seq_prob", -0.1, "from 0 to 1"),
        ("short_seq_prob", float("nan"), "from 0 to 1"),
        ("random_seed", -1, "from 0"),
    ],
)
def test_invalid_settings_are_refused(setting: str, value: float, expected: str) -> None:
    with pytest.raises(InputError, match=f"--{setting.replace('_', '-')} is {value}, expected .*{expected}"):
        InstanceSettings(**{setting: value})  # type: ignore[arg-type]


def test_all_invalid_settings_are_named() -> None:
    with pytest.raises(InputError, match=r"--max-seq-length is 3.*--dupe-factor is -2"):
        InstanceSettings(max_seq_length=3, max_predictions_per_seq=1, dupe_factor=-2)


def test_limits_are_allowed() -> None:
    settings = InstanceSettings(max_seq_length=5, max_predictions_per_seq=2, masked_lm_prob=1.0, short_seq_prob=1.0)
    assert settings.record_shape == RecordShape(5, 2)
    records = make_records(random_documents(5), settings)
    assert {len(record.input_ids) for record in records} == {5}
    assert {len(record.masked_ids) for record in records} == {2}


def test_records_are_pinned() -> None:
    """The digest was taken when all records were equal to those of MLCommons' script (tests/parity)."""
    digest = hashlib.sha256()
    records = make_records(
        random_documents(), InstanceSettings(max_seq_length=64, max_predictions_per_seq=9, dupe_factor=3)
    )
    for record in records:
        for name in ("input_ids", "token_type_ids", "masked_positions", "masked_ids"):
            digest.update(getattr(record, name).tobytes())
        digest.update(bytes([record.next_sentence_label]))
    assert (len(records), digest.hexdigest()[:16]) == (613, "4077adb5303e1f13")


def test_segments_are_text_and_labels_are_true() -> None:
    documents = random_documents()
    settings = InstanceSettings(max_seq_length=64, max_predictions_per_seq=9, dupe_factor=3)
    labels: Counter[int] = Counter()
    for record in make_records(documents, settings):
        a, b = segments(record)
        for segment in (a, b):
            assert segment == list(range(segment[0], segment[0] + len(segment)))
        assert 2 <= len(a) + len(b) <= 61
        assert record.token_type_ids.tolist() == [0] * (len(a) + 2) + [1] * (len(b) + 1)
        is_same_document = document_of(documents, a[0]) == document_of(documents, b[0])
        assert record.next_sentence_label == (not is_same_document)
        if is_same_document:
            assert a[-1] < b[0]
        labels[record.next_sentence_label] += 1
    assert 0.4 < labels[0] / labels.total() < 0.5  # a chunk of one sentence always gets a random B


def test_every_sentence_of_short_documents_is_used() -> None:
    """Nothing is truncated, so that each pass has every sentence in an A, or in a B that follows its A."""
    documents = make_documents([[3] * 7 for _ in range(20)])
    settings = InstanceSettings(max_seq_length=128, dupe_factor=1, short_seq_prob=0.0)
    used: Counter[int] = Counter()
    for record in make_records(documents, settings):
        a, b = segments(record)
        used.update(a)
        if record.next_sentence_label == 0:
            used.update(b)
    assert used == Counter(documents.tokens.tolist())


def test_short_targets_make_short_sequences() -> None:
    documents = make_documents([[1] * 1000 for _ in range(30)])
    shares = []
    for probability in (0.0, 1.0):
        records = make_records(documents, InstanceSettings(short_seq_prob=probability, dupe_factor=1))
        shares.append(sum(len(record.input_ids) < 120 for record in records) / len(records))
    assert shares[0] < 0.2  # only at the ends of documents
    assert shares[1] > 0.8


def test_masks() -> None:
    documents = random_documents()
    shown: Counter[str] = Counter()
    for record in make_records(documents, InstanceSettings(dupe_factor=10)):
        length, positions = len(record.input_ids), record.masked_positions.tolist()
        assert len(positions) == min(20, max(1, round(0.15 * length)))
        assert all(first < second for first, second in pairwise(positions))
        separators = [0, int(np.argmax(record.token_type_ids)) - 1, length - 1]
        assert not set(positions) & set(separators)
        for position, original in zip(positions, record.masked_ids.tolist(), strict=True):
            now = int(record.input_ids[position])
            shown["mask" if now == 4 else "same" if now == original else "random"] += 1
    assert shown["mask"] / shown.total() == pytest.approx(0.8, abs=0.02)
    assert shown["same"] / shown.total() == pytest.approx(0.1, abs=0.02)
    assert shown["random"] / shown.total() == pytest.approx(0.1, abs=0.02)


def test_random_tokens_are_from_the_whole_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instances, "MASK_PROBABILITY", 0.0)
    monkeypatch.setattr(instances, "KEEP_PROBABILITY", 0.0)
    small = Vocabulary(tuple("abcdefg"), unk_id=1, cls_id=2, sep_id=3, mask_id=4)
    documents = random_documents()
    seen: set[int] = set()
    for made in create_instances(documents, small, InstanceSettings(dupe_factor=2)):
        seen.update(made.masked_inputs)
    assert seen == set(range(7))


def test_dupes_have_other_masks_and_seeds_other_records() -> None:
    documents = random_documents(4)
    once, thrice = (make_records(documents, InstanceSettings(dupe_factor=factor)) for factor in (1, 3))
    assert 2 * len(once) < len(thrice)
    assert len({record.masked_positions.tobytes() for record in thrice}) > 2 * len(once)
    other = make_records(documents, InstanceSettings(dupe_factor=1, random_seed=1))
    assert [r.input_ids.tolist() for r in once] != [r.input_ids.tolist() for r in other]


def test_truncation_takes_from_both_ends_of_the_longer_segment() -> None:
    rng = Random(1)
    cuts = [instances._truncate((0, 50), (100, 110), 30, rng) for _ in range(200)]
    for a_start, a_stop, b_start, b_stop in cuts:
        assert (a_stop - a_start, b_start, b_stop) == (20, 100, 110)
        assert 0 <= a_start <= 30
    assert 13 < sum(cut[0] for cut in cuts) / len(cuts) < 17
    a_start, a_stop, b_start, b_stop = instances._truncate((0, 50), (100, 150), 21, rng)
    assert (a_stop - a_start, b_stop - b_start) == (11, 10)  # of two equally long, B is cut


def test_single_sentence_documents_get_a_random_next() -> None:
    records = make_records(make_documents([[5], [6], [7]]), InstanceSettings(dupe_factor=2))
    assert [record.next_sentence_label for record in records] == [1] * 6


def test_single_document_pairs_with_itself() -> None:
    (record,) = make_records(make_documents([[5]]), InstanceSettings(dupe_factor=1))
    assert segments(record) == (list(range(10, 15)), list(range(10, 15)))
    assert record.next_sentence_label == 1


def test_no_documents_make_no_instances() -> None:
    assert create_instances(make_documents([]), VOCABULARY, InstanceSettings()) == []
