"""Records checked together: the same facts as one by one, and nothing accepted that is refused there."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bert_large.data.formats import tfrecord
from bert_large.data.formats.example import Example
from bert_large.data.formats.packed import read_facts
from bert_large.data.formats.shard_format import RecordFacts, StoredRecord
from bert_large.data.formats.tfrecord import decode_record, encode_record, iterate_payloads, masked_crc32c
from bert_large.data.index import scan_shard
from bert_large.data.record import NO_PAIR, RecordShape

from tests.support.records import PHASE_1_SHAPE, make_records, write_shard


def one_by_one(payloads: list[bytes]) -> list[RecordFacts]:
    """Raises `ValueError` for a bad record."""
    return [RecordFacts.of(StoredRecord(*decode_record(payload), masked_crc32c(payload))) for payload in payloads]


def together(payloads: list[bytes]) -> list[RecordFacts] | None:
    found = read_facts(payloads, "masked_lm_weights")
    if found is None:
        return None
    shape, lengths, largest = found
    rows = zip(lengths.tolist(), largest.tolist(), payloads, strict=True)
    return [RecordFacts(shape, length, largest_id, masked_crc32c(payload)) for length, largest_id, payload in rows]


def payloads_of(count: int, vocab_size: int = 100) -> list[bytes]:
    records = make_records(count, lengths=(5, 12))
    for number, record in enumerate(records):
        record.input_ids[:] = np.random.default_rng(number).integers(1, vocab_size, len(record.input_ids))
        record.masked_ids[:] = np.random.default_rng(number).integers(1, vocab_size, len(record.masked_ids))
    return [encode_record(record, RecordShape(12, 20)) for record in records]


@pytest.mark.parametrize("vocab_size", [100, 128, 129, 30522, 1 << 21, (1 << 28) - 1])
def test_good_records_have_the_same_facts(vocab_size: int) -> None:
    """Token ids take one to four bytes."""
    payloads = payloads_of(9, vocab_size)
    assert together(payloads) == one_by_one(payloads)
    assert together(payloads[:1]) == one_by_one(payloads[:1])


def payloads_without_pairs() -> list[bytes]:
    """Records of one, two and many parts."""
    starts = [(0,), (0, 3), tuple(range(5))]
    records = make_records(3, lengths=(5, 12))
    return [
        encode_record(replace(record, next_sentence_label=NO_PAIR, part_starts=parts), RecordShape(12, 20))
        for record, parts in zip(records, starts, strict=True)
    ]


def test_records_of_parts_have_the_same_facts() -> None:
    """Their label is -1, which takes ten bytes."""
    payloads = payloads_without_pairs()
    for found in (payloads, payloads[:1], payloads[1:], payloads_of(3) + payloads):
        assert together(found) == one_by_one(found)


@pytest.mark.parametrize("payload", [payloads_of(1)[0], payloads_without_pairs()[1]])
def test_nothing_is_accepted_that_is_refused_one_by_one(payload: bytes) -> None:
    """Every byte of a record is replaced by others; what is accepted has the same facts."""
    source, accepted = random.Random(0), 0
    for place in range(len(payload)):
        for value in {0, 1, 2, 0x7F, 0x80, 0xFF, source.randrange(256)}:
            changed = payload[:place] + bytes([value]) + payload[place + 1 :]
            if (found := together([payload, changed])) is not None:
                assert found == one_by_one([payload, changed])
                accepted += changed != payload
    assert accepted > 0  # other tokens, labels and padding


def set_field(name: str, values: list[int]) -> Callable[[Any], None]:
    def change(example: Any) -> None:
        example.features.feature[name].int64_list.value[: len(values)] = values

    return change


def message(tag: int, content: bytes) -> bytes:
    """Return a field of fewer than 128 bytes."""
    return bytes([tag, len(content)]) + content


def with_list(payload: bytes, name: str, content: bytes) -> bytes:
    """Encode the list of a feature as `content`: a second message at the end is merged with the first."""
    example = Example.FromString(payload)
    del example.features.feature[name]
    entry = message(0x0A, name.encode()) + message(0x12, message(0x1A, content))
    return example.SerializeToString() + message(0x0A, message(0x0A, entry))


@pytest.mark.parametrize(
    "change",
    [
        set_field("input_ids", [-1]),
        set_field("input_ids", [1 << 31]),
        set_field("input_ids", [1 << 40]),
        set_field("input_mask", [0, 1]),
        set_field("input_mask", [0] * 12),
        set_field("segment_ids", [2]),
        set_field("masked_lm_positions", [12]),
        set_field("masked_lm_ids", [-5]),
        set_field("next_sentence_labels", [2]),
        set_field("next_sentence_labels", [-2]),
        set_field("segment_ids", [-1]),
        set_field("masked_lm_positions", [-1]),
        set_field("input_mask", [1, 2]),
        lambda example: example.features.feature["input_ids"].int64_list.value.append(0),
        lambda example: example.features.feature["masked_lm_weights"].float_list.value.append(0),
        lambda example: example.features.feature["next_sentence_labels"].int64_list.value.append(0),
        lambda example: example.features.feature.pop("segment_ids"),
        lambda example: example.features.feature["masked_lm_ids"].float_list.value.append(1.0),
    ],
)
def test_bad_records_are_left_to_the_other_decoder(change: Callable[[Any], None]) -> None:
    good, other = payloads_of(2)
    example = Example.FromString(other)
    change(example)
    payload = example.SerializeToString(deterministic=True)
    with pytest.raises(ValueError):
        one_by_one([good, payload])
    assert together([good, payload]) is None


def test_other_encodings_are_left_to_the_other_decoder() -> None:
    """They are good records: a list that is not packed, a list or a message in two parts, an unknown field."""
    good, other = payloads_of(2)
    features = Example.FromString(other).features.feature
    (label,), ids = features["next_sentence_labels"].int64_list.value, bytes(features["input_ids"].int64_list.value)
    others = [
        with_list(other, "next_sentence_labels", bytes([0x08, label])),
        with_list(other, "input_ids", message(0x0A, ids[:5]) + message(0x0A, ids[5:])),
        with_list(other, "input_ids", message(0x0A, ids)),
        other + bytes([0x50, 1]),
    ]
    for payload in others:
        (found,), (expected,) = one_by_one([payload]), one_by_one([other])
        assert (found.length, found.largest_id, found.shape) == (expected.length, expected.largest_id, expected.shape)
        assert together([good, payload]) is None


def test_shards_of_several_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last batch may be short; a bad record affects its own batch only, and keeps its number and place."""
    monkeypatch.setattr(tfrecord, "_SCAN_RECORDS", 4)
    path = write_shard(tmp_path / "part-0", make_records(11))
    places = [offset for offset, _ in iterate_payloads(path)]
    assert scan_shard(path).offsets.tolist() == places
    content = bytearray(path.read_bytes())
    content[places[6] + 20] ^= 1
    path.write_bytes(content)
    found = scan_shard(path, max_bad_records=1)
    assert found.offsets.tolist() == [*places[:6], places[7], *places[7:]] and found.shape == PHASE_1_SHAPE
    assert f"record 6 at byte {places[6]}: " in found.bad_records[0]
