"""TFRecords written by this package and by TensorFlow: each reads the other's, and both agree on MLCommons' sample."""

from __future__ import annotations

import random
import struct
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from bert_large.data.dataset import Dataset
from bert_large.data.formats.tfrecord import decode_record, iterate_payloads
from bert_large.data.record import Record, RecordShape

from tests.parity.golden import SAMPLE
from tests.support.records import PHASE_1_SHAPE, assert_same_record, make_records, write_shard

tf = pytest.importorskip("tensorflow", reason="needs TensorFlow to compare with")
needs_sample = pytest.mark.skipif(not SAMPLE.is_dir(), reason=f"needs MLCommons' sample data in {SAMPLE}")
pytestmark = pytest.mark.slow  # TensorFlow takes ten seconds to import

RECORDS = make_records(20)
INTEGERS = ("input_ids", "input_mask", "segment_ids", "masked_lm_positions", "masked_lm_ids", "next_sentence_labels")


def parse_with_tensorflow(path: Path, shape: RecordShape) -> list[dict[str, np.ndarray]]:
    """Return the records of a shard, parsed as MLCommons' input function does."""
    lengths = dict.fromkeys(("input_ids", "input_mask", "segment_ids"), shape.max_seq_length)
    lengths |= dict.fromkeys(("masked_lm_positions", "masked_lm_ids"), shape.max_predictions)
    features = {name: tf.io.FixedLenFeature([length], tf.int64) for name, length in lengths.items()}
    features["masked_lm_weights"] = tf.io.FixedLenFeature([shape.max_predictions], tf.float32)
    features["next_sentence_labels"] = tf.io.FixedLenFeature([1], tf.int64)
    dataset = tf.data.TFRecordDataset(str(path)).map(lambda payload: tf.io.parse_single_example(payload, features))
    return list(dataset.as_numpy_iterator())


def assert_same(record: Record, fields: dict[str, np.ndarray]) -> None:
    """Compare our record with TensorFlow's padded fields."""
    length, predictions = len(record.input_ids), len(record.masked_ids)
    assert fields["input_mask"].tolist() == [1] * length + [0] * (len(fields["input_mask"]) - length)
    assert fields["masked_lm_weights"].tolist() == [1.0] * predictions + [0.0] * (
        len(fields["masked_lm_weights"]) - predictions
    )
    for ours, theirs, size in (
        (record.input_ids, "input_ids", length),
        (record.token_type_ids, "segment_ids", length),
        (record.masked_positions, "masked_lm_positions", predictions),
        (record.masked_ids, "masked_lm_ids", predictions),
    ):
        np.testing.assert_array_equal(ours, fields[theirs][:size], err_msg=theirs)
        assert not fields[theirs][size:].any(), theirs
    assert fields["next_sentence_labels"].tolist() == [record.next_sentence_label]


def test_tensorflow_reads_ours(tmp_path: Path) -> None:
    """Framing, checksums, schema and padding."""
    parsed = parse_with_tensorflow(write_shard(tmp_path / "shard", RECORDS), PHASE_1_SHAPE)
    assert len(parsed) == len(RECORDS)
    for record, fields in zip(RECORDS, parsed, strict=True):
        assert_same(record, fields)


def padded_fields(record: Record) -> dict[str, list[int] | list[float]]:
    """Return the features of a record, padded to the lengths of phase 1."""
    tokens, slots = 128 - len(record.input_ids), 20 - len(record.masked_ids)
    return {
        "input_ids": record.input_ids.tolist() + [0] * tokens,
        "input_mask": [1] * len(record.input_ids) + [0] * tokens,
        "segment_ids": record.token_type_ids.tolist() + [0] * tokens,
        "masked_lm_positions": record.masked_positions.tolist() + [0] * slots,
        "masked_lm_ids": record.masked_ids.tolist() + [0] * slots,
        "masked_lm_weights": [1.0] * len(record.masked_ids) + [0.0] * slots,
        "next_sentence_labels": [record.next_sentence_label],
    }


def test_we_read_tensorflows(tmp_path: Path) -> None:
    """Written as by MLCommons' script, with an additional feature that this package does not know."""
    path = tmp_path / "shard"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in RECORDS:
            features = {
                name: tf.train.Feature(int64_list=tf.train.Int64List(value=values))
                if name in INTEGERS
                else tf.train.Feature(float_list=tf.train.FloatList(value=values))
                for name, values in padded_fields(record).items()
            }
            features["source"] = tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"wiki"]))
            writer.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())
    decoded = [decode_record(payload) for _, payload in iterate_payloads(path)]
    assert len(decoded) == len(RECORDS)
    for (found, shape), expected in zip(decoded, RECORDS, strict=True):
        assert shape == PHASE_1_SHAPE
        assert_same_record(found, expected)


def varint(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def field(number: int, content: bytes) -> bytes:
    """Return a length-delimited field in protobuf's wire format."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def encode_by_hand(features: dict[str, list[Any]], order: list[str], *, packed: bool) -> bytes:
    """Return an Example in wire format with lists packed or not, and map entries in a given order."""
    entries = b""
    for name in order:
        values = features[name]
        integers = name in INTEGERS
        items = [varint(value) if integers else struct.pack("<f", value) for value in values]
        if packed:
            values_field = field(1, b"".join(items))
        else:
            values_field = b"".join((b"\x08" if integers else b"\x0d") + item for item in items)
        feature = field(3 if integers else 2, values_field)
        entries += field(1, field(1, name.encode()) + field(2, feature))
    return field(1, entries)


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "unpacked"])
def test_any_valid_encoding_reads_alike(packed: bool) -> None:
    """Lists packed and unpacked, and map entries in any order, are parsed as TensorFlow parses them."""
    shuffler = random.Random(1)
    for record in RECORDS:
        features = padded_fields(record)
        order = list(features)
        shuffler.shuffle(order)
        payload = encode_by_hand(features, order, packed=packed)
        theirs = tf.train.Example.FromString(payload).features.feature
        assert theirs["input_ids"].int64_list.value == features["input_ids"]
        assert theirs["masked_lm_weights"].float_list.value == features["masked_lm_weights"]
        found, shape = decode_record(payload)
        assert shape == PHASE_1_SHAPE
        assert_same_record(found, record)


@needs_sample
@pytest.mark.parametrize(
    ("name", "count", "shape"),
    [
        ("seq_128/part-00000-of-00002_128", 2073, RecordShape(128, 20)),
        ("seq_128/part-00001-of-00002_128", 2174, RecordShape(128, 20)),
        ("seq_512/part-00000-of-00002", 600, RecordShape(512, 76)),
        ("seq_512/part-00001-of-00002", 587, RecordShape(512, 76)),
        ("eval/eval_10k", 200, RecordShape(512, 76)),
    ],
)
def test_mlcommons_sample(name: str, count: int, shape: RecordShape) -> None:
    """Every field of every record made by MLCommons' script equals the one that TensorFlow parses."""
    decoded = [decode_record(payload) for _, payload in iterate_payloads(SAMPLE / name)]
    parsed = parse_with_tensorflow(SAMPLE / name, shape)
    assert len(decoded) == len(parsed) == count
    for (record, record_shape), fields in zip(decoded, parsed, strict=True):
        assert record_shape == shape
        assert_same(record, fields)


@needs_sample
def test_nvidia_sample(tmp_path: Path) -> None:
    """Every row made by NVIDIA's script equals its fields in the file."""
    (path,) = (SAMPLE / "hdf5_seq_128").iterdir()
    dataset = Dataset.open(path.parent, tmp_path, build=True)
    with h5py.File(path) as file:
        raw = {name: values[:] for name, values in file.items()}
        assert len(dataset) == len(raw["input_ids"]) > 0
        assert dataset.shape == RecordShape(128, 20)
    for row, record in enumerate(dataset.read_all(range(len(dataset)))):
        length = int(raw["input_mask"][row].sum())
        predictions = int((raw["masked_lm_positions"][row] > 0).sum())
        assert record.input_ids.tolist() == raw["input_ids"][row, :length].tolist()
        assert not raw["input_ids"][row, length:].any()
        assert record.token_type_ids.tolist() == raw["segment_ids"][row, :length].tolist()
        assert record.masked_positions.tolist() == raw["masked_lm_positions"][row, :predictions].tolist()
        assert record.masked_ids.tolist() == raw["masked_lm_ids"][row, :predictions].tolist()
        assert record.next_sentence_label == raw["next_sentence_labels"][row]
        assert 1 <= predictions <= 20
