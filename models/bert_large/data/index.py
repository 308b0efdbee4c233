"""A shard's index: where its records lie and how long they are, made by one checking pass and kept on disk.

The pass decodes and checks every record once, so a damaged shard is found before training rather than in the middle of
it. It stores three values per record:

- the offset, for random access;
- the length in tokens. Dealing a global batch to ranks and cutting it into micro-batches needs the lengths of all its
  sequences, so every rank computes the same cuts from the index, without reading the records of other ranks;
- a checksum. An index made earlier is reused by later runs as long as the shard's size and modification time are the
  same, and both can be unchanged when the content is not: failing disks, copies that preserve times, shards swapped
  while a run is going. Every record read is compared with it, in TFRecords and in HDF5, which has no checksums itself.

A bad record that is skipped keeps its number: the next good record of its shard is indexed in its place. So the order
of all other samples is the same as without the damage.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
from array import array
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bert_large.data.formats import format_of
from bert_large.data.formats.shard_format import ShardFormat
from bert_large.data.record import BadRecordError, BadRecords, RecordLimits, RecordShape
from bert_large.errors import DamageError, DataError
from bert_large.storage.atomic import crc32c_of, read_json, write_atomically
from bert_large.worker_processes import end_with_parent, require_semaphores

_VERSION = 3
"""Changed whenever an index of an earlier version can no longer be read."""
_NAME_CHARACTERS = 48
"""How much of a shard's name an index file's name begins with: names are limited to 255 bytes, also temporary ones."""
_ARRAYS: dict[str, type[np.generic]] = {"offsets": np.int64, "lengths": np.int32, "checksums": np.uint32}
"""Arrays of an index. Their files are raw values without a header, so a damaged file cannot declare a wrong size."""


@dataclass(frozen=True)
class ShardIndex:
    """The facts about one shard: its path, the shape of its records, and arrays over its records."""

    path: Path
    shape: RecordShape
    offsets: NDArray[np.int64]
    """[records] where each record begins, in the unit of the format: bytes or rows."""
    lengths: NDArray[np.int32]
    """[records] number of real tokens of each record."""
    checksums: NDArray[np.uint32]
    """[records] checksum of each record's contents."""
    digest: str
    """Hash of the shape, lengths and checksums: identifies the contents on any machine."""
    bad_records: list[str]
    """The error message of each bad record, in whose place another one is indexed."""

    @property
    def format(self) -> ShardFormat:
        """The shard's file format."""
        return format_of(self.path)

    def number_of(self, row: int) -> int:
        """Return the number in the file of the record that is read for `row`.

        It differs from `row` in place of a bad record. The next good record is read there, which has the same offset:
        in a run of equal offsets only the last is the record itself. At the end of the shard no good record follows,
        so the first good one is read instead.
        """
        number = self._last_of_equal(row)
        is_first = number == len(self.offsets) - 1 and self.offsets[0] == self.offsets[number]
        return self._last_of_equal(0) if is_first else number

    def _last_of_equal(self, row: int) -> int:
        while row + 1 < len(self.offsets) and self.offsets[row + 1] == self.offsets[row]:
            row += 1
        return row


def scan_shard(path: Path, limits: RecordLimits | None = None, max_bad_records: int = 0) -> ShardIndex:
    """Read and check a whole shard; raises `DataError` if more than `max_bad_records` records are bad."""
    bad = BadRecords(max_bad_records)
    offsets, lengths, checksums = array("q"), array("i"), array("I")  # of the good records only
    rows = array("q")
    """For every record of the file, the number of good records before it: the good record read in its place."""
    shape: RecordShape | None = None
    shard_format = format_of(path)
    with contextlib.closing(shard_format.open(path)) as shard:
        for number, (offset, stored) in enumerate(shard.scan()):
            rows.append(len(offsets))
            if isinstance(stored, BadRecordError):
                bad.add(stored)
                continue
            shape = shape or stored.shape
            try:
                if stored.shape != shape:
                    raise ValueError(f"it has {stored.shape}, the records before it {shape}")
                if limits is not None:
                    limits.check(stored.record)
            except ValueError as error:
                bad.add(shard_format.bad_record(path, offset, number, error))
                continue
            offsets.append(offset)
            lengths.append(len(stored.record.input_ids))
            checksums.append(stored.checksum)
    if not rows:
        raise DataError(f"{path}: the shard is empty; delete it, or create it again")
    if shape is None or not offsets:
        raise DataError(f"{next(iter(bad.found))}; the shard has no good record: delete it, or create it again")
    # Bad records at the end of the file have no good record after them: the modulus gives them the first good one.
    chosen = np.array(rows) % len(offsets)
    arrays = (np.array(offsets)[chosen], np.array(lengths)[chosen], np.array(checksums)[chosen])
    return ShardIndex(path, shape, *arrays, _digest(shape, *arrays[1:]), list(bad.found))


def _digest(shape: RecordShape, lengths: NDArray[np.int32], checksums: NDArray[np.uint32]) -> str:
    return hashlib.sha256(f"{shape}".encode() + lengths.tobytes() + checksums.tobytes()).hexdigest()


def _index_path(path: Path, index_dir: Path, limits: RecordLimits | None) -> Path:
    """Return the path that the names of a shard's index files begin with.

    It contains a hash of the shard's path, size and modification time and of the limits, so a changed shard, or other
    limits, have another index.
    """
    try:
        stat = path.stat()
    except OSError as error:
        raise DataError(f"{path} cannot be opened: {error.strerror}") from None
    identity = f"{path.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}\0{limits}\0{_VERSION}"
    return index_dir / f"{path.name[:_NAME_CHARACTERS]}.{hashlib.sha256(os.fsencode(identity)).hexdigest()[:16]}"


def _part(target: Path, name: str) -> Path:
    """Return the path of one of an index's files: an array of `_ARRAYS`, or "json" for the other facts."""
    return target.with_name(f"{target.name}.{name}")


def _scan_and_store(path: Path, index_dir: Path, limits: RecordLimits | None, max_bad_records: int) -> None:
    target = _index_path(path, index_dir, limits)
    index = scan_shard(path, limits, max_bad_records)
    if _index_path(path, index_dir, limits) != target:
        raise DataError(
            f"{path} changed while its records were checked; run the same command again when it is complete"
        )
    # The JSON file is written last: an index is complete if and only if it has one.
    for name in _ARRAYS:
        with write_atomically(_part(target, name)) as file:
            file.write(getattr(index, name).data)
    facts = {
        **dataclasses.asdict(index.shape),
        "digest": index.digest,
        "bad_records": index.bad_records,
        "arrays_crc32c": {name: crc32c_of(_part(target, name)) for name in _ARRAYS},
    }
    with write_atomically(_part(target, "json")) as file:
        file.write(json.dumps(facts).encode())


def load_index(path: Path, index_dir: Path, limits: RecordLimits | None = None) -> ShardIndex:
    """Load the stored index of a shard. Its arrays are memory-mapped, so ranks and workers share their memory.

    Raises `DataError` if there is no index of the shard as it is now, or the index is damaged.
    """
    target = _index_path(path, index_dir, limits)
    if not _part(target, "json").exists():
        raise DataError(
            f"{path} changed after its records were checked; run the same command again when it is complete"
        )
    try:
        facts = read_json(_part(target, "json"))
        shape = RecordShape(facts["max_seq_length"], facts["max_predictions"])
        offsets, lengths, checksums = (
            np.memmap(_part(target, name), dtype, mode="r") for name, dtype in _ARRAYS.items()
        )
        if not len(offsets) == len(lengths) == len(checksums):
            raise ValueError("its arrays differ in length")
        bad_records = list(map(str, facts["bad_records"]))
        return ShardIndex(path, shape, offsets, lengths, checksums, str(facts["digest"]), bad_records)
    except (DamageError, OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"the index {target} of {path} cannot be read: {error}; delete it, and run the same command again"
        ) from None


def _has_index(path: Path, index_dir: Path, limits: RecordLimits | None) -> bool:
    """Return whether the index of a shard is stored, with every byte as it was written."""
    target = _index_path(path, index_dir, limits)
    try:
        index = load_index(path, index_dir, limits)
        expected = read_json(_part(target, "json")).get("arrays_crc32c")
    except (DataError, DamageError):
        return False
    found = {name: crc32c_of(_part(target, name)) for name in _ARRAYS}
    return found == expected and index.digest == _digest(index.shape, index.lengths, index.checksums)


def build_indexes(
    paths: Sequence[Path],
    index_dir: Path,
    on_shard: Callable[[int, int], None],
    limits: RecordLimits | None = None,
    max_bad_records: int = 0,
) -> None:
    """Scan the shards that have no index yet, in parallel; calls `on_shard(done, total)` after each.

    Every shard may have up to `max_bad_records` bad records. The caller checks the sum over all shards.
    """
    index_dir.mkdir(parents=True, exist_ok=True)
    missing = [path for path in paths if not _has_index(path, index_dir, limits)]
    if not missing:
        return
    scan = partial(_scan_and_store, index_dir=index_dir, limits=limits, max_bad_records=max_bad_records)
    workers = min(len(missing), len(os.sched_getaffinity(0)))
    if workers == 1 and not any(format_of(path).can_crash for path in missing):
        for done, path in enumerate(missing, start=1):
            scan(path)
            on_shard(done, len(missing))
        return
    _scan_in_processes(missing, scan, workers, lambda done: on_shard(done, len(missing)))


def _scan_in_processes(
    paths: Sequence[Path], scan: Callable[[Path], None], workers: int, on_done: Callable[[int], None]
) -> None:
    """Scan shards in other processes, because a library can crash on a damaged file; such a shard is named.

    A pool is unusable once one of its processes has died, and does not report which shard that process had. So the
    shards are scanned again one at a time, each in a pool of its own.
    """
    require_semaphores()
    try:
        # Spawned, not forked: the caller's threads (OpenMP, gloo) do not survive a fork.
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=end_with_parent) as pool:
            for done, _ in enumerate(pool.map(scan, paths), start=1):
                on_done(done)
    except BrokenProcessPool:
        if workers > 1 or len(paths) > 1:
            for path in paths:
                _scan_in_processes([path], scan, 1, lambda done: None)
            return
        raise DataError(
            f"{paths[0]}: the process that checked its records died: either damage in the file crashed the "
            "library that reads it, or memory ran out; create the shard again, or delete it"
        ) from None
