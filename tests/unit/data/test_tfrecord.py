"""TFRecord shards: what is written is read back, and damage is named with file and byte."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from bert_large.data.formats.example import Example
from bert_large.data.formats.tfrecord import (
    FRAME_BYTES,
    HEADER_BYTES,
    decode_record,
    encode_record,
    iterate_payloads,
    masked_crc32c,
    read_payload,
    write_records,
)
from bert_large.data.record import Record, RecordShape
from bert_large.errors import DataError

from tests.support.records import PHASE_1_SHAPE, assert_same_record, make_records, write_shard


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    """Three records."""
    return write_shard(tmp_path / "part-00000", make_records(3))


def offsets(shard: Path) -> list[int]:
    return [offset for offset, _ in iterate_payloads(shard)]


def damage(shard: Path, byte: int) -> None:
    content = bytearray(shard.read_bytes())
    content[byte] ^= 0x10
    shard.write_bytes(content)


def error_of(shard: Path) -> str:
    with pytest.raises(DataError) as caught:
        list(iterate_payloads(shard))
    return str(caught.value)


def test_written_records_are_read_back(tmp_path: Path) -> None:
    """Reading drops the padding. Full slots, no predictions and a single token are valid too."""
    full = make_records(1, lengths=(128, 128))[0]
    ids = np.array([5], np.int32)
    nothing = np.array([], np.int32)
    single = Record(ids, np.array([0], np.uint8), nothing, nothing, 1)
    records = [*make_records(20), full, single]
    path = write_shard(tmp_path / "shard", records)
    decoded = [decode_record(payload) for _, payload in iterate_payloads(path)]
    assert len(decoded) == 22
    for (found, shape), expected in zip(decoded, records, strict=True):
        assert shape == PHASE_1_SHAPE
        assert_same_record(found, expected)


def test_offsets_reach_single_records(shard: Path) -> None:
    payloads = dict(iterate_payloads(shard))
    assert next(iter(payloads)) == 0
    with shard.open("rb") as file:
        for offset in reversed(payloads):
            assert read_payload(file, shard, offset) == payloads[offset]


def test_checksum_is_crc32c_masked() -> None:
    """The CRC-32C of "123456789" is 0xE3069283 (RFC 3720 and others); masking rotates it by 15 and adds a constant."""
    crc = 0xE3069283
    assert masked_crc32c(b"123456789") == (((crc >> 15) | (crc << 17)) + 0xA282EAD8) % 2**32


def test_writer_counts() -> None:
    file = io.BytesIO()
    write_records(file, [b"ab", b""])
    assert len(file.getvalue()) == 2 * FRAME_BYTES + 2


def test_a_record_that_does_not_fit_is_refused() -> None:
    """Writing cuts nothing off silently."""
    record = make_records(1, lengths=(30, 30))[0]
    for shape in (RecordShape(29, 20), RecordShape(128, len(record.masked_ids) - 1)):
        with pytest.raises(ValueError, match=r"30 tokens .* does not fit"):
            encode_record(record, shape)


@pytest.mark.parametrize(
    ("within_frame", "message"),
    [(0, "header"), (HEADER_BYTES - 1, "header"), (HEADER_BYTES + 5, "of a record"), (-1, "of a record")],
    ids=["length", "length's checksum", "payload", "payload's checksum"],
)
def test_a_flipped_bit_is_found(shard: Path, within_frame: int, message: str) -> None:
    """In any part of the second frame; the error names the file and the byte where the frame begins."""
    _, second, third = offsets(shard)
    damage(shard, (third if within_frame < 0 else second) + within_frame)
    error = error_of(shard)
    assert error.startswith(f"{shard}: record 1 at byte {second}: wrong checksum") and message in error


@pytest.mark.parametrize("kept_of_last_frame", [1, HEADER_BYTES - 1, HEADER_BYTES, HEADER_BYTES + 10, -1])
def test_a_truncated_file_is_found(shard: Path, kept_of_last_frame: int) -> None:
    last, size = offsets(shard)[-1], shard.stat().st_size
    shard.write_bytes(shard.read_bytes()[: size - 1 if kept_of_last_frame < 0 else last + kept_of_last_frame])
    error = error_of(shard)
    assert error.startswith(f"{shard}: record 2 at byte {last}: ") and "truncated" in error


def test_an_absurd_length_is_refused(tmp_path: Path) -> None:
    """A header can be damaged and still have a right checksum: no terabyte is allocated for it."""
    length = struct.pack("<Q", 1 << 40)
    path = tmp_path / "shard"
    path.write_bytes(length + struct.pack("<I", masked_crc32c(length)) + b"x" * 100)
    assert f"{path}: record 0 at byte 0: a record of {1 << 40} bytes" in error_of(path)


def test_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "part-00000"
    path.write_text("Some article, one sentence per line.\n")
    assert "not a TFRecord" in error_of(path)


def payload_with(**changes: list[int] | list[float] | None) -> bytes:
    """Return a good payload of 8 slots and 2 predictions with some features replaced, or left out if None."""
    values: dict[str, list[int] | list[float] | None] = {
        "input_ids": [2, 5, 6, 3, 0, 0, 0, 0],
        "input_mask": [1, 1, 1, 1, 0, 0, 0, 0],
        "segment_ids": [0, 0, 1, 1, 0, 0, 0, 0],
        "masked_lm_positions": [1, 0],
        "masked_lm_ids": [7, 0],
        "masked_lm_weights": [1.0, 0.0],
        "next_sentence_labels": [0],
    }
    example = Example()
    for name, value in (values | changes).items():
        if value is None:
            continue
        if any(isinstance(number, float) for number in value):
            example.features.feature[name].float_list.value.extend(value)
        else:
            example.features.feature[name].int64_list.value.extend(value)
    return example.SerializeToString()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_ids": None}, "feature input_ids is missing"),
        ({"masked_lm_weights": [1, 0]}, "masked_lm_weights is missing or not a list of float"),
        ({"segment_ids": [0.0] * 8}, "segment_ids is missing or not a list of int64"),
        ({"input_mask": [1] * 7}, "input_mask has 7 values, expected 8"),
        ({"masked_lm_ids": [7]}, "masked_lm_ids has 1 values, expected 2"),
        ({"input_mask": [1, 0, 1, 1, 0, 0, 0, 0]}, "input_mask is not ones followed by zeros"),
        ({"input_mask": [2, 1, 1, 1, 0, 0, 0, 0]}, "input_mask is not ones followed by zeros"),
        ({"input_mask": [0] * 8}, "no tokens"),
        ({"masked_lm_weights": [0.5, 0.0]}, "masked_lm_weights is not ones"),
        ({"segment_ids": [0, 0, 2, 1, 0, 0, 0, 0]}, "segment_ids has values [0, 1, 2]"),
        ({"masked_lm_positions": [4, 0]}, "masked_lm_positions has 4, outside the sequence's 4 tokens"),
        ({"masked_lm_positions": [-1, 0]}, "masked_lm_positions has -1"),
        ({"input_ids": [2, -5, 6, 3, 0, 0, 0, 0]}, "input_ids has -5, which is not a token id"),
        ({"masked_lm_ids": [1 << 31, 0]}, "masked_lm_ids has 2147483648, which is not a token id"),
        ({"next_sentence_labels": [2]}, "next_sentence_labels is 2"),
        ({"next_sentence_labels": [0, 1]}, "next_sentence_labels is [0, 1]"),
    ],
)
def test_wrong_schema_is_named(changes: dict[str, list[int] | list[float] | None], message: str) -> None:
    """Every field is checked; the message says what was found."""
    assert decode_record(payload_with())[1] == RecordShape(8, 2)
    with pytest.raises(ValueError) as caught:
        decode_record(payload_with(**changes))
    assert message in str(caught.value)


def test_bytes_that_are_not_an_example_are_refused() -> None:
    with pytest.raises(ValueError, match=r"not a tf.train.Example"):
        decode_record(b"\xff\xff\xff")
    with pytest.raises(ValueError, match="is missing"):
        decode_record(b"")


def test_values_in_the_padding_are_ignored() -> None:
    """Generators of records leave arbitrary values where the mask and the weights are 0."""
    record, _ = decode_record(payload_with(input_ids=[2, 5, 6, 3, -9, 99, 0, 0], masked_lm_positions=[1, 77]))
    assert record.input_ids.tolist() == [2, 5, 6, 3]
    assert record.masked_positions.tolist() == [1]
