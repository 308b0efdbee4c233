"""NVIDIA's HDF5 shards: six datasets of padded rows (DeepLearningExamples' BERT `create_pretraining_data`)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import google_crc32c
import h5py
import numpy as np

from bert_large.data.formats.padded import (
    LABEL_FIELD,
    PREDICTION_FIELDS,
    TOKEN_FIELDS,
    field_widths,
    pad_record,
    unpad_record,
)
from bert_large.data.formats.shard_format import RecordFacts, ShardFormat, StoredRecord
from bert_large.data.record import BadRecordError, Record, RecordShape
from bert_large.errors import DataError

_DATASETS = (*TOKEN_FIELDS, *PREDICTION_FIELDS, LABEL_FIELD)
_SCAN_ROWS = 4096
"""Rows decoded together when a whole shard is read."""
_CHUNK_ROWS = 64
"""Rows compressed together. Training reads rows one by one, and each read decompresses its whole chunk."""
_BLOCK_ROWS = 16 * _CHUNK_ROWS
"""Rows written together: whole chunks, so that each is compressed once, and few enough to need little memory."""
# A damaged or malicious file can declare any size. Both limits are far above any use; nothing larger is allocated.
_MAX_CHUNK_BYTES = 1 << 28
_MAX_WIDTH = 1 << 15
# What h5py raises for errors of the HDF5 library.
_LIBRARY_ERRORS = (OSError, RuntimeError, ValueError, KeyError, TypeError)
_LAYOUTS = (h5py.h5d.CHUNKED, h5py.h5d.CONTIGUOUS)
_FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32, h5py.h5z.FILTER_LZF}


class HDF5Shard:
    """An HDF5 file opened for reading; offsets are row numbers."""

    def __init__(self, path: Path) -> None:
        self._path, self._file = path, open_shard(path)
        self.shape = RecordShape(self._file["input_ids"].shape[1], self._file["masked_lm_positions"].shape[1])
        self._rows = len(self._file[LABEL_FIELD])

    def scan(self) -> Iterator[tuple[int, RecordFacts | BadRecordError]]:
        """Yield the number of every row with facts about it, or with an error if it is damaged."""
        for start in range(0, self._rows, _SCAN_ROWS):
            for row, stored in enumerate(self._read_rows(start, min(start + _SCAN_ROWS, self._rows)), start):
                yield row, stored if isinstance(stored, BadRecordError) else RecordFacts.of(stored)

    def read(self, offset: int, number: int) -> StoredRecord:
        """Read row `offset`; raises `BadRecordError` if it is damaged, `DataError` if the file has fewer rows."""
        if offset >= self._rows:
            raise DataError(f"{self._path}: row {offset} no longer exists: the file changed since it was indexed")
        (row,) = self._read_rows(offset, offset + 1)
        if isinstance(row, BadRecordError):
            raise row
        return row

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _read_rows(self, start: int, stop: int) -> list[StoredRecord | BadRecordError]:
        """Decode rows `start` up to `stop`, with an error in the place of each damaged row."""
        try:
            rows = {name: self._file[name][start:stop].astype(np.int64) for name in _DATASETS}
        except _LIBRARY_ERRORS as error:
            if stop - start == 1:
                return [FORMAT.bad_record(self._path, start, start, f"cannot be read: {error}")]
            # Rows share compressed chunks: halving finds the rows outside the damaged chunk, which are good.
            middle = (start + stop) // 2
            return [*self._read_rows(start, middle), *self._read_rows(middle, stop)]
        return [self._decode(rows, row, start + row) for row in range(stop - start)]

    def _decode(self, rows: dict[str, np.ndarray], row: int, number: int) -> StoredRecord | BadRecordError:
        fields: dict[str, Any] = {name: values[row] for name, values in rows.items()}
        # Position 0 is always [CLS], which is never masked: the first zero ends the list of positions.
        ends = np.flatnonzero(fields["masked_lm_positions"] == 0)
        predictions = int(ends[0]) if ends.size else self.shape.max_predictions
        try:
            record = unpad_record(fields, predictions, int(fields[LABEL_FIELD]))
        except ValueError as error:
            return FORMAT.bad_record(self._path, number, number, error)
        return StoredRecord(record, self.shape, _checksum(record))


def _checksum(record: Record) -> int:
    """Return a checksum of a record's contents; HDF5 itself keeps none per row."""
    arrays = (record.input_ids, record.token_type_ids, record.masked_positions, record.masked_ids)
    parts = np.array(record.part_starts[1:], np.int32).tobytes()  # nothing in records of one part
    label = record.next_sentence_label.to_bytes(1, "little", signed=True)
    return google_crc32c.value(b"".join(array.tobytes() for array in arrays) + label + parts)


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
    for name in _DATASETS:
        _check_storage(file, name)
    missing = [name for name in _DATASETS if not isinstance(file.get(name), h5py.Dataset)]
    if missing:
        raise DataError(f"{path}: lacks the datasets {', '.join(missing)}; expected {', '.join(_DATASETS)}")
    for name in _DATASETS:
        dataset, dimensions, rows = file[name], 1 if name == LABEL_FIELD else 2, len(file[LABEL_FIELD])
        if dataset.ndim != dimensions or dataset.dtype.kind not in "iu":
            raise DataError(
                f"{path}: dataset {name} is {dataset.dtype} with {dataset.ndim} dimensions, "
                f"expected integers with {dimensions}"
            )
        if len(dataset) != rows:
            raise DataError(f"{path}: dataset {name} has {len(dataset)} rows, {LABEL_FIELD} has {rows}")
        chunk_bytes = dataset.dtype.itemsize * math.prod(dataset.chunks or (1,))
        if chunk_bytes > _MAX_CHUNK_BYTES:
            raise DataError(
                f"{path}: dataset {name} has chunks of {chunk_bytes} bytes, expected {_MAX_CHUNK_BYTES} at most"
            )
    for group in (TOKEN_FIELDS, PREDICTION_FIELDS):
        widths = {name: file[name].shape[1] for name in group}
        if len(set(widths.values())) > 1:
            raise DataError(f"{path}: row widths differ: {widths}")
        if max(widths.values()) > _MAX_WIDTH:
            raise DataError(f"{path}: row widths are {widths}, expected {_MAX_WIDTH} at most")


def _check_storage(file: h5py.File, name: str) -> None:
    """Refuse a dataset whose values HDF5 would read from another file: that could be any file this process may read.

    Also refuse storage that no shard needs, because rarely used code of the HDF5 library has had its worst flaws.
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


def write_shard(path: Path, records: Iterable[Record], count: int, shape: RecordShape) -> None:
    """Write `count` records as NVIDIA's preparation does: gzip datasets without attributes, zero-padded to `shape`.

    Ids and positions are int32, the others int8. One block of rows is in memory at a time. The same records give the
    same bytes.
    """
    iterator = iter(records)
    with h5py.File(path, "w") as file:
        for name, width in field_widths(shape).items():
            dtype = "i4" if name == "input_ids" or name in PREDICTION_FIELDS else "i1"
            chunk = (min(count, _CHUNK_ROWS), width)
            file.create_dataset(name, (count, width), dtype, chunks=chunk, compression="gzip")
        file.create_dataset(LABEL_FIELD, (count,), "i1", chunks=(min(count, _BLOCK_ROWS),), compression="gzip")
        for start in range(0, count, _BLOCK_ROWS):
            block = list(islice(iterator, _BLOCK_ROWS))
            padded = [pad_record(record, shape) for record in block]
            for name in field_widths(shape):
                file[name][start : start + len(block)] = np.stack([fields[name] for fields in padded])
            file[LABEL_FIELD][start : start + len(block)] = [record.next_sentence_label for record in block]


FORMAT = ShardFormat(
    name="hdf5",
    suffixes=(".hdf5", ".h5"),
    offset_unit="row",
    place="row {offset}",
    can_crash=True,
    open=HDF5Shard,
    write=write_shard,
)
