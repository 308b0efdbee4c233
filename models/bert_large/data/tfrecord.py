"""MLCommons' TFRecord shards: framing, checksums and the schema of a pretraining record.

Framing (tensorflow/core/lib/io/record_writer.h): u64 length, u32 masked CRC-32C of the length, payload, u32 masked
CRC-32C of the payload, all little-endian. The payload is a `tf.train.Example` whose lists have fixed lengths.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import google_crc32c
import numpy as np

from bert_large.data.example import Example
from bert_large.data.record import BadRecordError, Record, RecordShape
from bert_large.errors import DataError

_LENGTH = struct.Struct("<Q")
_CHECKSUM = struct.Struct("<I")
HEADER_BYTES = _LENGTH.size + _CHECKSUM.size
FRAME_BYTES = HEADER_BYTES + _CHECKSUM.size
# No record of any supported shape comes near; a larger length is a damaged header, not a reason to allocate.
MAX_RECORD_BYTES = 1 << 24

TOKEN_FEATURES = ("input_ids", "input_mask", "segment_ids")
PREDICTION_FEATURES = ("masked_lm_positions", "masked_lm_ids")


def masked_crc32c(data: bytes) -> int:
    """Return TensorFlow's masked CRC-32C: the checksum rotated right by 15 bits plus a constant."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def write_records(file: BinaryIO, payloads: Iterable[bytes]) -> int:
    """Append framed payloads to `file` and return their number."""
    count = 0
    for payload in payloads:
        length = _LENGTH.pack(len(payload))
        file.write(length + _CHECKSUM.pack(masked_crc32c(length)))
        file.write(payload + _CHECKSUM.pack(masked_crc32c(payload)))
        count += 1
    return count


def encode_record(record: Record, shape: RecordShape) -> bytes:
    """Return `record` as a serialized Example, its lists zero-padded to `shape`."""
    length, predictions = len(record.input_ids), len(record.masked_ids)
    tokens, slots = shape.max_seq_length, shape.max_predictions
    if length > tokens or predictions > slots:
        raise ValueError(f"a record of {length} tokens and {predictions} predictions does not fit {shape}")
    padding, empty_slots = [0] * (tokens - length), [0] * (slots - predictions)
    example = Example()
    feature = example.features.feature
    feature["input_ids"].int64_list.value.extend(record.input_ids.tolist() + padding)
    feature["input_mask"].int64_list.value.extend([1] * length + padding)
    feature["segment_ids"].int64_list.value.extend(record.token_type_ids.tolist() + padding)
    feature["masked_lm_positions"].int64_list.value.extend(record.masked_positions.tolist() + empty_slots)
    feature["masked_lm_ids"].int64_list.value.extend(record.masked_ids.tolist() + empty_slots)
    feature["masked_lm_weights"].float_list.value.extend([1.0] * predictions + [0.0] * len(empty_slots))
    feature["next_sentence_labels"].int64_list.value.append(record.next_sentence_label)
    return example.SerializeToString(deterministic=True)  # else the map's order differs from process to process


def open_shard(path: Path) -> BinaryIO:
    """Open a shard to read; `DataError` if that is not possible."""
    try:
        return path.open("rb")
    except OSError as error:
        raise DataError(f"{path} cannot be opened: {error.strerror}") from None


def read_payload(file: BinaryIO, path: Path, offset: int, number: int | None = None) -> bytes:
    """Return the payload of the frame at byte `offset`, both checksums verified.

    Raises `BadRecordError` naming the file, the record if its `number` is known, and the byte.
    """
    try:
        return _read_frame(file, offset)
    except (OSError, ValueError) as error:
        place = f"byte {offset}" if number is None else f"record {number} at byte {offset}"
        raise BadRecordError(f"{path}: {place}: {error}") from None


def _read_frame(file: BinaryIO, offset: int) -> bytes:
    file.seek(offset)
    header = file.read(HEADER_BYTES)
    if len(header) < HEADER_BYTES:
        raise ValueError(f"the file ends {len(header)} bytes into a record header of {HEADER_BYTES}; it is truncated")
    (length,), (found,) = _LENGTH.unpack_from(header), _CHECKSUM.unpack_from(header, _LENGTH.size)
    if found != (expected := masked_crc32c(header[: _LENGTH.size])):
        raise ValueError(
            f"wrong checksum of a record header, {found:#010x} where its bytes give {expected:#010x}; "
            "not a TFRecord, or damaged"
        )
    if length > MAX_RECORD_BYTES:
        raise ValueError(f"a record of {length} bytes; at most {MAX_RECORD_BYTES} are sensible")
    body = file.read(length + _CHECKSUM.size)
    if len(body) < length + _CHECKSUM.size:
        raise ValueError(
            f"a record of {length} bytes runs past the end, which comes after {len(body)}; the file is truncated"
        )
    payload = body[:length]
    (found,) = _CHECKSUM.unpack_from(body, length)
    if found != (expected := masked_crc32c(payload)):
        raise ValueError(
            f"wrong checksum of a record of {length} bytes, {found:#010x} where its bytes give {expected:#010x}; "
            "the file is damaged"
        )
    return payload


def iterate_frames(path: Path) -> Iterator[tuple[int, bytes | BadRecordError]]:
    """Yield (byte offset of the frame, payload) of every record of a shard, in file order.

    A damaged stretch gives one error in place of its records: where its first one begins. The next record is the next
    frame whose header is whole.
    """
    with open_shard(path) as file:
        size, offset, number = os.fstat(file.fileno()).st_size, 0, 0
        while offset < size:
            try:
                payload = read_payload(file, path, offset, number)
            except BadRecordError as error:
                yield offset, error
                offset = _find_header(file, path, offset + 1, size)
            else:
                yield offset, payload
                offset += FRAME_BYTES + len(payload)
            number += 1


def iterate_payloads(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield what `iterate_frames` does of a shard without damage; raises `BadRecordError` at the first."""
    for offset, payload in iterate_frames(path):
        if isinstance(payload, BadRecordError):
            raise payload
        yield offset, payload


_WINDOW_BYTES = 1 << 20


def _find_header(file: BinaryIO, path: Path, start: int, size: int) -> int:
    """Return the first byte from `start` on where a whole record header stands, `size` if there is none.

    One in 2^32 places looks like a header by chance: what is read there has a wrong checksum, and is passed over too.
    """
    for window_start in range(start, size, _WINDOW_BYTES):
        try:
            file.seek(window_start)
            window = file.read(_WINDOW_BYTES + HEADER_BYTES - 1)
        except OSError as error:
            raise DataError(f"{path}: byte {window_start} cannot be read: {error.strerror}") from None
        octets = np.frombuffer(window, np.uint8)
        places = max(len(octets) - HEADER_BYTES + 1, 0)
        # Cheaply, for every place: a sensible length has its upper bytes zero, and is not 0.
        low, high = np.zeros(places, bool), np.zeros(places, bool)
        for byte in range(3):
            low |= octets[byte : byte + places] != 0
        for byte in range(4, _LENGTH.size):
            high |= octets[byte : byte + places] != 0
        for place in np.flatnonzero(low & ~high).tolist():
            length, checksum = window[place : place + _LENGTH.size], window[place + _LENGTH.size : place + HEADER_BYTES]
            if _CHECKSUM.unpack(checksum)[0] == masked_crc32c(length):
                return window_start + place
    return size


def decode_record(payload: bytes) -> tuple[Record, RecordShape]:
    """Parse a serialized Example and check it against the schema.

    Padding is dropped: tokens are those under `input_mask`, predictions those with weight 1. Raises `ValueError`
    with the field and the value found; the caller adds the file and the record.
    """
    example = Example()
    try:
        example.ParseFromString(payload)
    except Exception as error:  # protobuf's DecodeError has no common base across its implementations
        raise ValueError(f"not a tf.train.Example: {error}") from error
    features = example.features.feature
    integers = {name: _int64_list(features, name) for name in (*TOKEN_FEATURES, *PREDICTION_FEATURES)}
    weights = _float_list(features, "masked_lm_weights")
    label = _int64_list(features, "next_sentence_labels")
    shape = RecordShape(len(integers["input_ids"]), len(weights))
    for names, size in ((TOKEN_FEATURES, shape.max_seq_length), (PREDICTION_FEATURES, shape.max_predictions)):
        for name in names:
            if len(integers[name]) != size:
                raise ValueError(f"{name} has {len(integers[name])} values, its companions have {size}")
    if label.tolist() not in ([0], [1]):
        raise ValueError(f"next_sentence_labels is {label.tolist()[:4]}, expected [0] or [1]")
    length, predictions = _ones(integers["input_mask"], "input_mask"), _ones(weights, "masked_lm_weights")
    return make_record(integers, length, predictions, int(label[0])), shape


def make_record(fields: dict[str, np.ndarray], length: int, predictions: int, next_sentence_label: int) -> Record:
    """Cut a record's padded int64 fields to its real tokens and predictions, checking every range."""
    if length < 1:
        raise ValueError("the record has no tokens (input_mask is all 0)")
    token_type_ids = fields["segment_ids"][:length]
    if token_type_ids.min() < 0 or token_type_ids.max() > 1:
        raise ValueError(f"segment_ids has values {np.unique(token_type_ids).tolist()[:8]}, expected 0 and 1")
    positions = fields["masked_lm_positions"][:predictions]
    if predictions and (positions.min() < 0 or positions.max() >= length):
        bad = positions[(positions < 0) | (positions >= length)][0]
        raise ValueError(f"masked_lm_positions has {bad}, outside the sequence's {length} tokens")
    for name, ids in (
        ("input_ids", fields["input_ids"][:length]),
        ("masked_lm_ids", fields["masked_lm_ids"][:predictions]),
    ):
        if ids.size and (ids.min() < 0 or ids.max() >= 1 << 31):
            raise ValueError(f"{name} has {ids[(ids < 0) | (ids >= 1 << 31)][0]}, not a token id")
    return Record(
        input_ids=fields["input_ids"][:length].astype(np.int32),
        token_type_ids=token_type_ids.astype(np.uint8),
        masked_positions=positions.astype(np.int32),
        masked_ids=fields["masked_lm_ids"][:predictions].astype(np.int32),
        next_sentence_label=next_sentence_label,
    )


def _int64_list(features: dict, name: str) -> np.ndarray:
    if name not in features or features[name].WhichOneof("kind") != "int64_list":
        raise ValueError(f"feature {name} is missing or not a list of int64")
    return np.array(features[name].int64_list.value, dtype=np.int64)


def _float_list(features: dict, name: str) -> np.ndarray:
    if name not in features or features[name].WhichOneof("kind") != "float_list":
        raise ValueError(f"feature {name} is missing or not a list of float")
    return np.array(features[name].float_list.value, dtype=np.float32)


def _ones(mask: np.ndarray, name: str) -> int:
    """Return the number of leading ones of a mask that is ones, then zeros."""
    count = int(np.count_nonzero(mask))
    if not np.all(mask[:count] == 1):
        raise ValueError(f"{name} is not ones followed by zeros")
    return count
