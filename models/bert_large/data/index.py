"""A shard's index: where its records lie and how long they are, made by one checking pass and kept on disk.

The pass decodes every record once and checks all of it, so a damaged shard is found before training, not in the middle
of it. A bad record that is passed over keeps its number: the next good one of its shard is indexed in its place, so
the order of all other samples is what it would be without the damage.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
from array import array
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bert_large.data import hdf5
from bert_large.data.record import BadRecordError, BadRecords, Record, RecordLimits, RecordShape
from bert_large.data.tfrecord import decode_record, iterate_frames, masked_crc32c
from bert_large.errors import DamageError, DataError, InputError
from bert_large.storage.atomic import crc32c_of, read_json, write_atomically
from bert_large.worker_processes import end_with_parent

_FORMAT = 3
_HDF5_ROWS = 4096
HDF5_SUFFIXES = (".hdf5", ".h5")


@dataclass(frozen=True)
class ShardIndex:
    """What is known of one shard: its path, the shape of its records, and arrays over its records."""

    path: Path
    shape: RecordShape
    offsets: NDArray[np.int64]
    """[records] byte offset of each TFRecord frame, or row number in HDF5."""
    lengths: NDArray[np.int32]
    """[records] real tokens of each record."""
    checksums: NDArray[np.uint32]
    """[records] what tells that a record is the one that was indexed."""
    digest: str
    """Of the shape and all records: the same ones have the same digest anywhere."""
    bad_records: list[str]
    """What is wrong with each record that another one stands in for."""

    def number_of(self, row: int) -> int:
        """Return the number of the record that is read for `row`: the next good one's where that was bad."""
        number = self._last_alike(row)
        # At the shard's end it is the first good one that stands in.
        is_first = number == len(self.offsets) - 1 and self.offsets[0] == self.offsets[number]
        return self._last_alike(0) if is_first else number

    def _last_alike(self, row: int) -> int:
        while row + 1 < len(self.offsets) and self.offsets[row + 1] == self.offsets[row]:
            row += 1
        return row


def is_hdf5(path: Path) -> bool:
    """Tell a shard's format by its name, as those who write the formats do."""
    return path.suffix in HDF5_SUFFIXES


def list_shards(folder: Path) -> list[Path]:
    """Return the shards of a folder in file order: its visible regular files, sorted by name."""
    if not folder.is_dir():
        raise InputError(f"data folder {folder} does not exist or is no folder")
    # Manifests and notes lie beside shards; MLCommons' shards have no suffix that could tell them apart.
    beside = (".json", ".txt", ".md", ".md5", ".yaml")
    shards = sorted(
        path
        for path in folder.iterdir()
        if path.is_file() and not path.name.startswith((".", "_")) and path.suffix not in beside
    )
    if not shards:
        raise InputError(f"data folder {folder} holds no shards; expected TFRecord or HDF5 files")
    return shards


@dataclass(frozen=True)
class _Scanned:
    record: Record
    shape: RecordShape
    checksum: int


def _iterate_records(path: Path) -> Iterator[tuple[int, _Scanned | BadRecordError]]:
    """Yield (offset, record) of every record, or in its place an error that names it by number and byte."""
    return _iterate_rows(path) if is_hdf5(path) else _iterate_tfrecords(path)


def _iterate_rows(path: Path) -> Iterator[tuple[int, _Scanned | BadRecordError]]:
    with hdf5.open_shard(path) as file:
        shape = hdf5.shard_shape(file)
        rows = len(file[hdf5.LABELS])
        blocks = (hdf5.scan_rows(file, start, min(start + _HDF5_ROWS, rows)) for start in range(0, rows, _HDF5_ROWS))
        for row, found in enumerate(itertools.chain.from_iterable(blocks)):
            if isinstance(found, BadRecordError):
                yield row, found
            else:
                yield row, _Scanned(found, shape, hdf5.record_checksum(found))


def _iterate_tfrecords(path: Path) -> Iterator[tuple[int, _Scanned | BadRecordError]]:
    for number, (offset, payload) in enumerate(iterate_frames(path)):
        if isinstance(payload, BadRecordError):
            yield offset, payload
            continue
        try:
            yield offset, _Scanned(*decode_record(payload), masked_crc32c(payload))
        except ValueError as error:
            yield offset, bad_record(path, offset, number, error)


def scan_shard(path: Path, limits: RecordLimits | None = None, max_bad_records: int = 0) -> ShardIndex:
    """Read and check a whole shard. `DataError` when more records are bad than may be."""
    bad = BadRecords(max_bad_records)
    # `stand_ins` has an entry per record: which of the good ones, in the other arrays, is there or comes next.
    stand_ins, offsets, lengths, checksums = array("q"), array("q"), array("i"), array("I")
    shape: RecordShape | None = None
    for number, (offset, found) in enumerate(_iterate_records(path)):
        stand_ins.append(len(offsets))
        if isinstance(found, BadRecordError):
            bad.add(found)
            continue
        shape = shape or found.shape
        try:
            _check(found, shape, limits)
        except ValueError as error:
            bad.add(bad_record(path, offset, number, error))
            continue
        offsets.append(offset)
        lengths.append(len(found.record.input_ids))
        checksums.append(found.checksum)
    if not stand_ins:
        raise DataError(f"{path}: the shard is empty; remove it, or make it again")
    if shape is None or not offsets:
        raise DataError(f"{next(iter(bad.found))}; the shard has no good record: remove it, or make it again")
    rows = np.array(stand_ins) % len(offsets)  # for bad ones at the end the first good one stands in
    arrays = (np.array(offsets)[rows], np.array(lengths)[rows], np.array(checksums)[rows])
    return ShardIndex(path, shape, *arrays, _digest(shape, *arrays[1:]), list(bad.found))


def _digest(shape: RecordShape, lengths: NDArray[np.int32], checksums: NDArray[np.uint32]) -> str:
    return hashlib.sha256(f"{shape}".encode() + lengths.tobytes() + checksums.tobytes()).hexdigest()


def _check(found: _Scanned, shape: RecordShape, limits: RecordLimits | None) -> None:
    if found.shape != shape:
        raise ValueError(f"it has {found.shape}, the records before it {shape}")
    if limits is not None:
        limits.check(found.record)


def bad_record(path: Path, offset: int, number: int, problem: Exception) -> BadRecordError:
    """Return the error of a record whose frame or row is whole and whose contents are not."""
    place = f"row {offset}" if is_hdf5(path) else f"record {number} at byte {offset}"
    return BadRecordError(f"{path}: {place}: {problem}")


def _index_path(path: Path, index_dir: Path, limits: RecordLimits | None) -> Path:
    """Return where the index of a shard is kept; another size, modification time or limit is another index."""
    try:
        stat = path.stat()
    except OSError as error:
        raise DataError(f"{path} cannot be opened: {error.strerror}") from None
    identity = f"{path.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}\0{limits}\0{_FORMAT}"
    return index_dir / f"{path.name}.{hashlib.sha256(os.fsencode(identity)).hexdigest()[:16]}"


# Their files are the bare values: nothing in them has to be believed.
_ARRAYS: dict[str, type[np.generic]] = {"offsets": np.int64, "lengths": np.int32, "checksums": np.uint32}


def _array_path(target: Path, name: str) -> Path:
    return target.with_name(f"{target.name}.{name}")


def _facts_path(target: Path) -> Path:
    return target.with_name(f"{target.name}.json")


def _scan_and_keep(path: Path, index_dir: Path, limits: RecordLimits | None, max_bad_records: int) -> None:
    target = _index_path(path, index_dir, limits)
    index = scan_shard(path, limits, max_bad_records)
    if _index_path(path, index_dir, limits) != target:
        raise DataError(f"{path} changed while its records were checked; start again when it is complete")
    # The arrays come first: an index is complete when its JSON is there.
    for name in _ARRAYS:
        with write_atomically(_array_path(target, name)) as file:
            file.write(getattr(index, name).data)
    facts = {
        **dataclasses.asdict(index.shape),
        "digest": index.digest,
        "bad_records": index.bad_records,
        "arrays_crc32c": {name: crc32c_of(_array_path(target, name)) for name in _ARRAYS},
    }
    with write_atomically(_facts_path(target)) as file:
        file.write(json.dumps(facts).encode())


def load_index(path: Path, index_dir: Path, limits: RecordLimits | None = None) -> ShardIndex:
    """Load the kept index of a shard; its arrays are memory-mapped, so ranks and workers share them.

    Raises `DataError` when there is none, or it is damaged.
    """
    target = _index_path(path, index_dir, limits)
    if not _facts_path(target).exists():
        raise DataError(f"{path} changed after its records were checked; start again when it is complete")
    try:
        facts = read_json(_facts_path(target))
        shape = RecordShape(facts["max_seq_length"], facts["max_predictions"])
        offsets, lengths, checksums = (
            np.memmap(_array_path(target, name), dtype, mode="r") for name, dtype in _ARRAYS.items()
        )
        if not len(offsets) == len(lengths) == len(checksums):
            raise ValueError("its arrays differ in length")
        bad_records = list(map(str, facts["bad_records"]))
        return ShardIndex(path, shape, offsets, lengths, checksums, str(facts["digest"]), bad_records)
    except (DamageError, OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"the index {target} of {path} cannot be read: {error}; remove it, and start again") from None


def _has_index(path: Path, index_dir: Path, limits: RecordLimits | None) -> bool:
    """Tell whether the index of a shard is kept, and every byte of it as it was written."""
    target = _index_path(path, index_dir, limits)
    try:
        index = load_index(path, index_dir, limits)
        expected = read_json(_facts_path(target)).get("arrays_crc32c")
    except (DataError, DamageError):
        return False
    found = {name: crc32c_of(_array_path(target, name)) for name in _ARRAYS}
    return found == expected and index.digest == _digest(index.shape, index.lengths, index.checksums)


def build_indexes(
    paths: Sequence[Path],
    index_dir: Path,
    on_shard: Callable[[int, int], None],
    limits: RecordLimits | None = None,
    max_bad_records: int = 0,
) -> None:
    """Scan those shards whose index is not kept yet, in parallel; calls `on_shard(done, total)` after each.

    A shard may have up to `max_bad_records` bad records; whoever opens the folder counts those of all shards.
    """
    index_dir.mkdir(parents=True, exist_ok=True)
    missing = [path for path in paths if not _has_index(path, index_dir, limits)]
    if not missing:
        return
    scan = partial(_scan_and_keep, index_dir=index_dir, limits=limits, max_bad_records=max_bad_records)
    workers = min(len(missing), len(os.sched_getaffinity(0)))
    if workers == 1 and not any(map(is_hdf5, missing)):
        for done, path in enumerate(missing, start=1):
            scan(path)
            on_shard(done, len(missing))
        return
    _scan_in_processes(missing, scan, workers, lambda done: on_shard(done, len(missing)))


def _scan_in_processes(
    paths: Sequence[Path], scan: Callable[[Path], None], workers: int, on_done: Callable[[int], None]
) -> None:
    """Scan shards in processes. The HDF5 library can crash on damage: a shard that ends its process is named."""
    try:
        with _processes(workers) as pool:
            for done, _ in enumerate(pool.map(scan, paths), start=1):
                on_done(done)
    except BrokenProcessPool:
        if workers > 1 or len(paths) > 1:  # several shards were at work
            for path in paths:
                _scan_in_processes([path], scan, 1, lambda done: None)
            return
        raise DataError(
            f"{paths[0]}: the process that checked its records died, of damage that crashes the HDF5 library or for "
            "lack of memory; make the shard again, or remove it"
        ) from None


def _processes(workers: int) -> ProcessPoolExecutor:
    # Spawned, not forked: the caller's threads (OpenMP, gloo) do not survive a fork.
    return ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=end_with_parent)
