"""MLCommons' TFRecord shards: framing, checksums and the schema of a pretraining record.

Framing (tensorflow/core/lib/io/record_writer.h): u64 length, u32 masked CRC-32C of the length, payload, u32 masked
CRC-32C of the payload, all little-endian. The payload is a `tf.train.Example` whose lists have fixed lengths.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import google_crc32c
import numpy as np

from bert_large.data.formats.example import Example
from bert_large.data.formats.packed import read_facts
from bert_large.data.formats.padded import (
    LABEL_FIELD,
    PREDICTION_FIELDS,
    TOKEN_FIELDS,
    count_ones,
    pad_record,
    unpad_record,
)
from bert_large.data.formats.shard_format import RecordFacts, ShardFormat, StoredRecord
from bert_large.data.record import BadRecordError, Record, RecordShape
from bert_large.errors import DataError

_LENGTH = struct.Struct("<Q")
_CHECKSUM = struct.Struct("<I")
HEADER_BYTES = _LENGTH.size + _CHECKSUM.size
FRAME_BYTES = HEADER_BYTES + _CHECKSUM.size
# No record of any supported shape comes near this size: a larger length is a damaged header, and not allocated.
MAX_RECORD_BYTES = 1 << 24
_WINDOW_BYTES = 1 << 20
"""Bytes searched at a time for the next record after a damaged one."""
_SCAN_RECORDS = 512
"""Records checked together when a whole shard is read."""
_PLACE = "record {number} at byte {offset}"
_WEIGHTS = "masked_lm_weights"


class TFRecordShard:
    """A TFRecord file opened for reading; offsets are the bytes at which frames begin."""

    def __init__(self, path: Path) -> None:
        self._path, self._file = path, open_shard(path)

    def scan(self) -> Iterator[tuple[int, RecordFacts | BadRecordError]]:
        """Yield the byte offset of every record with facts about it, or with an error if it is damaged."""
        frames, number = _iterate_frames(self._file, self._path), 0
        while batch := list(islice(frames, _SCAN_RECORDS)):
            yield from zip((offset for offset, _ in batch), self._facts(batch, number), strict=True)
            number += len(batch)

    def _facts(
        self, frames: Sequence[tuple[int, bytes | BadRecordError]], first: int
    ) -> Iterator[RecordFacts | BadRecordError]:
        """Yield the facts about consecutive records, of which the first has number `first`."""
        payloads = [payload for _, payload in frames if isinstance(payload, bytes)]
        together = read_facts(payloads, _WEIGHTS) if len(payloads) == len(frames) else None
        if together is not None:
            shape, lengths, largest = together
            for good, length, largest_id in zip(payloads, lengths.tolist(), largest.tolist(), strict=True):
                yield RecordFacts(shape, length, largest_id, masked_crc32c(good))
            return
        for number, (offset, payload) in enumerate(frames, first):
            try:
                if isinstance(payload, BadRecordError):
                    raise payload
                yield RecordFacts.of(self._decode(payload, offset, number))
            except BadRecordError as error:
                yield error

    def read(self, offset: int, number: int) -> StoredRecord:
        """Read the record at byte `offset`; raises `BadRecordError` if it is damaged."""
        return self._decode(read_payload(self._file, self._path, offset, number), offset, number)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _decode(self, payload: bytes, offset: int, number: int) -> StoredRecord:
        try:
            return StoredRecord(*decode_record(payload), masked_crc32c(payload))
        except ValueError as error:
            raise FORMAT.bad_record(self._path, offset, number, error) from None


def write_shard(path: Path, records: Iterable[Record], count: int, shape: RecordShape) -> None:
    """Write `count` records as a shard, padded to `shape`."""
    with path.open("wb") as file:
        write_records(file, (encode_record(record, shape) for record in records))


FORMAT = ShardFormat(
    name="tfrecord",
    suffixes=(),
    offset_unit="byte",
    place=_PLACE,
    can_crash=False,
    open=TFRecordShard,
    write=write_shard,
)


def masked_crc32c(data: bytes) -> int:
    """Return TensorFlow's masked CRC-32C: the checksum rotated right by 15 bits plus a constant."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def write_records(file: BinaryIO, payloads: Iterable[bytes]) -> None:
    """Append framed payloads to `file`."""
    for payload in payloads:
        length = _LENGTH.pack(len(payload))
        file.write(length + _CHECKSUM.pack(masked_crc32c(length)))
        file.write(payload + _CHECKSUM.pack(masked_crc32c(payload)))


def encode_record(record: Record, shape: RecordShape) -> bytes:
    """Return `record` as a serialized Example, its lists zero-padded to `shape`."""
    example = Example()
    feature = example.features.feature
    for name, values in pad_record(record, shape).items():
        feature[name].int64_list.value.extend(values.tolist())
    predictions = len(record.masked_ids)
    feature[_WEIGHTS].float_list.value.extend([1.0] * predictions + [0.0] * (shape.max_predictions - predictions))
    feature[LABEL_FIELD].int64_list.value.append(record.next_sentence_label)
    # Without `deterministic`, the order of the map's entries, and so the file, differs between processes.
    return example.SerializeToString(deterministic=True)


def open_shard(path: Path) -> BinaryIO:
    """Open a shard for reading; raises `DataError` if that is not possible."""
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
        place = f"byte {offset}" if number is None else _PLACE.format(number=number, offset=offset)
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
        raise ValueError(f"a record of {length} bytes, expected at most {MAX_RECORD_BYTES}")
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

    A damaged stretch yields one error, at the offset where it begins. Reading continues at the next frame whose header
    is intact.
    """
    with open_shard(path) as file:
        yield from _iterate_frames(file, path)


def _iterate_frames(file: BinaryIO, path: Path) -> Iterator[tuple[int, bytes | BadRecordError]]:
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
    """Yield the same as `iterate_frames`, but raise the first `BadRecordError`."""
    for offset, payload in iterate_frames(path):
        if isinstance(payload, BadRecordError):
            raise payload
        yield offset, payload


def _find_header(file: BinaryIO, path: Path, start: int, size: int) -> int:
    """Return the first byte at or after `start` where an intact record header begins, or `size` if there is none.

    One in 2^32 places looks like a header by chance. The record read there has a wrong checksum, so it is skipped too.
    """
    for window_start in range(start, size, _WINDOW_BYTES):
        try:
            file.seek(window_start)
            window = file.read(_WINDOW_BYTES + HEADER_BYTES - 1)
        except OSError as error:
            raise DataError(f"{path}: byte {window_start} cannot be read: {error.strerror}") from None
        octets = np.frombuffer(window, np.uint8)
        places = max(len(octets) - HEADER_BYTES + 1, 0)
        # Before computing checksums, keep the places where the length is plausible: upper bytes zero, but not 0.
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

    Tokens are the positions where `input_mask` is 1, predictions those with weight 1; the rest is padding and dropped.
    Raises `ValueError` with the field and the value found; the caller adds the file and the record.
    """
    example = Example()
    try:
        example.ParseFromString(payload)
    except Exception as error:  # protobuf's DecodeError has no common base across its implementations
        raise ValueError(f"not a tf.train.Example: {error}") from error
    features = example.features.feature
    fields = {name: _list(features, name, "int64") for name in (*TOKEN_FIELDS, *PREDICTION_FIELDS)}
    weights = _list(features, _WEIGHTS, "float")
    labels = _list(features, LABEL_FIELD, "int64").tolist()
    shape = RecordShape(len(fields["input_ids"]), len(weights))
    for names, size in ((TOKEN_FIELDS, shape.max_seq_length), (PREDICTION_FIELDS, shape.max_predictions)):
        for name in names:
            if len(fields[name]) != size:
                raise ValueError(f"{name} has {len(fields[name])} values, expected {size} as in related fields")
    if len(labels) != 1:
        raise ValueError(f"{LABEL_FIELD} is {labels[:4]}, expected [0] or [1]")
    return unpad_record(fields, count_ones(weights, _WEIGHTS), labels[0]), shape


def _list(features: dict, name: str, kind: str) -> np.ndarray:
    if name not in features or features[name].WhichOneof("kind") != f"{kind}_list":
        raise ValueError(f"feature {name} is missing or not a list of {kind}")
    return np.array(getattr(features[name], f"{kind}_list").value, dtype={"int64": np.int64, "float": np.float32}[kind])
