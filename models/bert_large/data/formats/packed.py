"""Facts about many serialized records at once: several times as fast as decoding them one by one.

A packed list of integers is a byte string in its message. Parsed with a schema that declares it as one, the message
costs little, and NumPy decodes and checks the lists of all records together. Only the usual encoding is understood, and
only records without any error: for all others `read_facts` returns None, and the caller decodes them one by one. This
module therefore accepts no record that `decode_record` refuses, and all errors come from there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bert_large.data.formats.example import PackedExample
from bert_large.data.formats.padded import LABEL_FIELD, PREDICTION_FIELDS, TOKEN_FIELDS
from bert_large.data.record import RecordShape

_LONGEST_VARINT = 4
"""Bytes of the largest number that is decoded: 28 bits."""
_MINUS_ONE = b"\xff" * 9 + b"\x01"
"""The only negative number that is understood, and only as the label of a record without a pair (`NO_PAIR`)."""
_CONTINUES = 0x80
"""Bit of a varint's byte that is followed by another one."""
_INTEGER_FIELDS = (*TOKEN_FIELDS, *PREDICTION_FIELDS, LABEL_FIELD)


def read_facts(
    payloads: Sequence[bytes], weights_field: str
) -> tuple[RecordShape, NDArray[np.int64], NDArray[np.int64]] | None:
    """Return the shape, the lengths [records] and the largest token ids [records] of serialized records.

    None unless all records are good, have one shape and are in the usual encoding.
    """
    chunks = _split(payloads, weights_field)
    if chunks is None:
        return None
    weights = _matrix(chunks[weights_field], np.dtype("<f4"))
    has_pair = np.array([chunk != _MINUS_ONE for chunk in chunks[LABEL_FIELD]])
    chunks[LABEL_FIELD] = [chunk if chunk != _MINUS_ONE else b"\0" for chunk in chunks[LABEL_FIELD]]
    fields = {name: _decode(chunks[name]) for name in _INTEGER_FIELDS}
    if weights is None or any(values is None for values in fields.values()):
        return None
    ids, mask, segments = (fields[name] for name in TOKEN_FIELDS)
    positions, masked_ids = (fields[name] for name in PREDICTION_FIELDS)
    labels = fields[LABEL_FIELD]
    assert ids is not None and mask is not None and segments is not None and labels is not None  # for type checkers
    assert positions is not None and masked_ids is not None
    if not ids.shape == mask.shape == segments.shape or not positions.shape == masked_ids.shape == weights.shape:
        return None
    lengths, predictions = np.count_nonzero(mask, axis=1), np.count_nonzero(weights, axis=1)
    real = np.arange(ids.shape[1]) < lengths[:, None]
    predicted = np.arange(positions.shape[1]) < predictions[:, None]
    is_good = (
        labels.shape[1] == 1
        and labels.max() <= 1
        and lengths.min() > 0
        and (np.array_equal(mask, real) or _has_parts(mask, real, has_pair))
        and np.array_equal(weights, predicted)
        and (segments * real).max() <= 1
        and (positions * predicted < lengths[:, None]).all()
    )
    if not is_good:
        return None
    largest = np.maximum((ids * real).max(axis=1), (masked_ids * predicted).max(axis=1))
    return RecordShape(ids.shape[1], positions.shape[1]), lengths, largest


def _has_parts(mask: NDArray, real: NDArray[np.bool_], has_pair: NDArray[np.bool_]) -> bool:
    """Return whether each mask numbers the parts of the real tokens from 1 on; a record with a pair has one part."""
    steps = np.diff(mask.astype(np.int32), axis=1, prepend=0) * real
    return bool(
        np.array_equal(mask != 0, real)
        and (steps[:, 0] == 1).all()
        and steps.min() >= 0
        and steps.max() <= 1
        and (mask[has_pair] <= 1).all()
    )


def _split(payloads: Sequence[bytes], weights_field: str) -> dict[str, list[bytes]] | None:
    """Return the packed bytes of each field of all records, or None if any record has another encoding."""
    chunks: dict[str, list[bytes]] = {name: [] for name in (*_INTEGER_FIELDS, weights_field)}
    example = PackedExample()
    for payload in payloads:
        try:
            example.ParseFromString(payload)
        except Exception:  # protobuf's DecodeError has no common base across its implementations
            return None
        # Lists that are not packed, repeated features and unknown fields make the message shorter than the payload.
        example.DiscardUnknownFields()
        if example.ByteSize() != len(payload):
            return None
        features = example.features.feature
        for name, found in chunks.items():
            if name not in features:
                return None
            feature = features[name]
            packed = (feature.float_list if name == weights_field else feature.int64_list).value
            if len(packed) != 1:
                return None
            found.append(packed[0])
    return chunks


def _matrix(chunks: Sequence[bytes], dtype: np.dtype) -> NDArray | None:
    """Return the values [records, size] of byte strings of one length, or None."""
    size = len(chunks[0])
    if size == 0 or size % dtype.itemsize or any(len(chunk) != size for chunk in chunks):
        return None
    return np.frombuffer(b"".join(chunks), dtype).reshape(len(chunks), -1)


def _decode(chunks: Sequence[bytes]) -> NDArray | None:
    """Return the values [records, size] of varints, or None for unequal numbers of them and for large or negative ones.

    https://protobuf.dev/programming-guides/encoding: groups of 7 bits, the lowest first.
    """
    octets = np.frombuffer(b"".join(chunks), np.uint8)
    ends = np.flatnonzero(octets < _CONTINUES)
    counts, rest = divmod(len(ends), len(chunks))
    stops = np.cumsum([len(chunk) for chunk in chunks])
    # The last value of each record must end where the record's bytes end.
    if counts == 0 or rest or not np.array_equal(ends[counts - 1 :: counts], stops - 1):
        return None
    if len(ends) == len(octets):
        return octets.reshape(len(chunks), counts)
    starts = np.concatenate(([0], ends[:-1] + 1))
    sizes = ends - starts + 1
    if sizes.max() > _LONGEST_VARINT:
        return None
    values = octets[starts].astype(np.int32) & (_CONTINUES - 1)
    for byte in range(1, int(sizes.max())):
        longer = np.flatnonzero(sizes > byte)
        values[longer] |= (octets[starts[longer] + byte].astype(np.int32) & (_CONTINUES - 1)) << (7 * byte)
    return values.reshape(len(chunks), counts)
