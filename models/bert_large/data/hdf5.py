"""NVIDIA's HDF5 shards: six datasets of padded rows (DeepLearningExamples' BERT `create_pretraining_data`)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import google_crc32c
import h5py
import numpy as np

from bert_large.data.record import BadRecordError, Record, RecordShape
from bert_large.data.tfrecord import make_record
from bert_large.errors import DataError

TOKEN_DATASETS = ("input_ids", "input_mask", "segment_ids")
PREDICTION_DATASETS = ("masked_lm_positions", "masked_lm_ids")
LABELS = "next_sentence_labels"
# Rows that are compressed together. A training run reads rows one by one, each at the cost of its whole chunk.
_CHUNK_ROWS = 64
# Rows that are written together: whole chunks, each compressed once, and few enough not to count in memory.
_BLOCK_ROWS = 16 * _CHUNK_ROWS
# A damaged or hostile file can declare any size: nothing beyond these is asked for memory. Both are far above any use.
_MAX_CHUNK_BYTES = 1 << 28
_MAX_WIDTH = 1 << 15
# What h5py makes of the HDF5 library's errors.
_LIBRARY_ERRORS = (OSError, RuntimeError, ValueError, KeyError, TypeError)
_LAYOUTS = (h5py.h5d.CHUNKED, h5py.h5d.CONTIGUOUS)
_FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32, h5py.h5z.FILTER_LZF}


def open_shard(path: Path) -> h5py.File:
    """Open a shard and check that its datasets exist, agree in size, and can be read in bounded memory."""
    try:
        file = h5py.File(path, "r")
    except FileNotFoundError:
        raise DataError(f"{path} cannot be opened: No such file or directory") from None
    except _LIBRARY_ERRORS as error:
        raise DataError(f"{path}: not a readable HDF5 file: {error}") from None
    try:
        _check_datasets(path, file)
    except _LIBRARY_ERRORS as error:
        file.close()
        raise DataError(f"{path}: a damaged HDF5 file: {error}") from None
    except DataError:
        file.close()
        raise
    return file


def _check_datasets(path: Path, file: h5py.File) -> None:
    names = (*TOKEN_DATASETS, *PREDICTION_DATASETS, LABELS)
    for name in names:
        _check_storage(file, name)
    missing = [name for name in names if not isinstance(file.get(name), h5py.Dataset)]
    if missing:
        raise DataError(f"{path}: lacks the datasets {', '.join(missing)}; expected {', '.join(names)}")
    for name in names:
        dataset, dimensions = file[name], 1 if name == LABELS else 2
        if dataset.ndim != dimensions or dataset.dtype.kind not in "iu":
            raise DataError(
                f"{path}: dataset {name} is {dataset.dtype} with {dataset.ndim} dimensions, "
                f"expected integers with {dimensions}"
            )
        if len(dataset) != len(file[LABELS]):
            raise DataError(f"{path}: dataset {name} has {len(dataset)} rows, {LABELS} has {len(file[LABELS])}")
        chunk_bytes = dataset.dtype.itemsize * math.prod(dataset.chunks or (1,))
        if chunk_bytes > _MAX_CHUNK_BYTES:
            raise DataError(
                f"{path}: dataset {name} has chunks of {chunk_bytes} bytes, expected {_MAX_CHUNK_BYTES} at most"
            )
    for group in (TOKEN_DATASETS, PREDICTION_DATASETS):
        widths = {name: file[name].shape[1] for name in group}
        if len(set(widths.values())) > 1:
            raise DataError(f"{path}: row widths differ: {widths}")
        if max(widths.values()) > _MAX_WIDTH:
            raise DataError(f"{path}: row widths are {widths}, expected {_MAX_WIDTH} at most")


def _check_storage(file: h5py.File, name: str) -> None:
    """Refuse a data set whose values HDF5 would read from elsewhere, which is any file that this process may read.

    Also one stored in a way that no shard needs: the HDF5 library has had its worst flaws in the seldom used ones.
    """
    link = file.get(name, getlink=True)  # before it is followed
    found = "a link" if isinstance(link, h5py.SoftLink | h5py.ExternalLink) else None
    if found is None and isinstance(dataset := file.get(name), h5py.Dataset):
        storage = dataset.id.get_create_plist()
        filters = {storage.get_filter(number)[0] for number in range(storage.get_nfilters())}
        if dataset.external is not None:
            found = "stored in another file"
        elif storage.get_layout() not in _LAYOUTS:
            found = "virtual or compact"
        elif filters - _FILTERS:
            found = f"stored with HDF5's filters {sorted(filters)}"
    if found is not None:
        raise DataError(
            f"{file.filename}: dataset {name} is {found}, expected its values in this file, in chunks or contiguous, "
            "as they are or compressed with gzip or lzf"
        )


def shard_shape(file: h5py.File) -> RecordShape:
    """Return the slots per row of an open shard."""
    return RecordShape(file["input_ids"].shape[1], file["masked_lm_positions"].shape[1])


def read_rows(file: h5py.File, start: int, stop: int) -> list[Record]:
    """Decode rows `start` up to `stop`. Raises `BadRecordError` naming the file and the row."""
    records = []
    for found in scan_rows(file, start, stop):
        if isinstance(found, BadRecordError):
            raise found
        records.append(found)
    return records


def scan_rows(file: h5py.File, start: int, stop: int) -> list[Record | BadRecordError]:
    """Decode rows `start` up to `stop`, with an error in the place of each row that is bad."""
    rows: dict[str, Any] = {}
    try:
        for name in (*TOKEN_DATASETS, *PREDICTION_DATASETS, LABELS):
            rows[name] = file[name][start:stop].astype(np.int64)
    except _LIBRARY_ERRORS as error:
        if stop - start == 1:
            return [BadRecordError(f"{file.filename}: row {start} cannot be read: {error}")]
        middle = (start + stop) // 2  # rows share compressed chunks: those outside the damaged one are good
        return [*scan_rows(file, start, middle), *scan_rows(file, middle, stop)]
    return [_decode_row(rows, row, f"{file.filename}: row {start + row}") for row in range(stop - start)]


def record_checksum(record: Record) -> int:
    """Return a checksum of a record's contents, as HDF5 has none of a row."""
    arrays = (record.input_ids, record.token_type_ids, record.masked_positions, record.masked_ids)
    return google_crc32c.value(b"".join(array.tobytes() for array in arrays) + bytes([record.next_sentence_label]))


def _decode_row(rows: dict[str, np.ndarray], row: int, where: str) -> Record | BadRecordError:
    fields = {name: rows[name][row] for name in (*TOKEN_DATASETS, *PREDICTION_DATASETS)}
    mask, label = fields["input_mask"], int(rows[LABELS][row])
    length = int(np.count_nonzero(mask))
    # Position 0 is always [CLS], never masked: the first zero ends the list.
    ends = np.flatnonzero(fields["masked_lm_positions"] == 0)
    predictions = int(ends[0]) if ends.size else len(fields["masked_lm_positions"])
    try:
        if not np.all(mask[:length] == 1):
            raise ValueError("input_mask is not ones followed by zeros")
        if label not in (0, 1):
            raise ValueError(f"{LABELS} is {label}, expected 0 or 1")
        return make_record(fields, length, predictions, label)
    except ValueError as error:
        return BadRecordError(f"{where}: {error}")


def write_shard(path: Path, records: Iterable[Record], count: int, shape: RecordShape) -> None:
    """Write `count` records as NVIDIA's script does: gzip datasets without attributes, rows zero-padded to `shape`.

    Ids and positions are int32, the others int8. One block of rows is in memory at a time. The same records give the
    same bytes.
    """
    iterator = iter(records)
    with h5py.File(path, "w") as file:
        for name, width in _widths(shape).items():
            dtype = "i4" if name == "input_ids" or name in PREDICTION_DATASETS else "i1"
            chunk = (min(count, _CHUNK_ROWS), width)
            file.create_dataset(name, (count, width), dtype, chunks=chunk, compression="gzip")
        file.create_dataset(LABELS, (count,), "i1", chunks=(min(count, _BLOCK_ROWS),), compression="gzip")
        for start in range(0, count, _BLOCK_ROWS):
            block = list(islice(iterator, _BLOCK_ROWS))
            for name, values in _pad_rows(block, shape).items():
                file[name][start : start + len(block)] = values


def _widths(shape: RecordShape) -> dict[str, int]:
    """Return the slots per row of every dataset that has rows."""
    return dict.fromkeys(TOKEN_DATASETS, shape.max_seq_length) | dict.fromkeys(
        PREDICTION_DATASETS, shape.max_predictions
    )


def _pad_rows(records: list[Record], shape: RecordShape) -> dict[str, np.ndarray]:
    rows = {name: np.zeros((len(records), width), np.int32) for name, width in _widths(shape).items()}
    for row, record in enumerate(records):
        length, predictions = len(record.input_ids), len(record.masked_ids)
        rows["input_ids"][row, :length] = record.input_ids
        rows["input_mask"][row, :length] = 1
        rows["segment_ids"][row, :length] = record.token_type_ids
        rows["masked_lm_positions"][row, :predictions] = record.masked_positions
        rows["masked_lm_ids"][row, :predictions] = record.masked_ids
    rows[LABELS] = np.array([record.next_sentence_label for record in records])
    return rows
