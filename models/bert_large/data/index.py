"""A shard's index: where its records lie and how long they are, made by one checking pass and kept on disk.

The pass decodes and checks every record once, so a damaged shard is found before training reaches it. It stores three
values per record:

- the offset, for random access;
- the length in tokens. Dealing a global batch to ranks and cutting it into micro-batches needs the lengths of all its
  sequences, so every rank computes the same cuts from the index, without reading the records of other ranks;
- a checksum. An index made earlier is reused by later runs as long as the shard's size and modification time are the
  same, and both can be unchanged when the content is not: failing disks, copies that preserve times, shards swapped
  while a run is going. Every record read is compared with it, in TFRecords and in HDF5, which has no checksums itself.

All runs on the data share their index, and several may make it at once (`data.index_folder`). Each index is written
atomically and depends on the shard alone, apart from records that exceed the limits of one model. Processes that scan
the same shard therefore store the same bytes, and the lock on a shard only avoids that they do so.

A bad record that is skipped keeps its number: the next good record of its shard is indexed in its place. So the order
of all other samples is the same as without the damage.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import time
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from bert_large.data.formats import format_of
from bert_large.data.formats.shard_format import ShardFormat
from bert_large.data.record import BadRecordError, BadRecords, RecordLimits, RecordShape
from bert_large.errors import DamageError, DataError
from bert_large.storage.atomic import crc32c_of, partial_files, read_json, write_atomically
from bert_large.storage.lock import file_lock
from bert_large.storage.output_folder import make_folder
from bert_large.worker_processes import end_with_parent, require_semaphores

_VERSION = 4
"""Changed whenever an index of an earlier version can no longer be read."""
BESIDE = ".bert_large_index"
"""Name of the folder for indexes beside the shards."""
_PATIENCE_SECONDS = 30.0
"""How long to wait for another process that scans a shard: it may have a low priority, or be on a dead host."""
_POLL_SECONDS = 0.1
_LEFTOVER_SECONDS = 86400.0
"""Age at which no process still writes to a temporary file."""
_BYTES_PER_PROCESS = 16 << 20
"""Fewer are scanned in less time than it takes to start a process."""
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
    largest_id: int
    """Largest token id of the good records, as an input or as a label."""
    exceeds_limits: bool = False
    """Whether some of the bad records are bad only for the limits of one model."""
    stored_at: Path | None = None
    """The path that the names of its files begin with, if it is stored."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle a stored index as its place: a copy in another process shares the memory of its arrays."""
        if self.stored_at is None:
            return super().__reduce__()  # type: ignore[return-value]
        return _reopen, (self.path, self.stored_at)

    @property
    def stored_in(self) -> Path | None:
        """The folder of its files, if it is stored."""
        return None if self.stored_at is None else self.stored_at.parent

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
    largest_id, exceeds_limits = 0, False
    shard_format = format_of(path)
    with contextlib.closing(shard_format.open(path)) as shard:
        for number, (offset, facts) in enumerate(shard.scan()):
            rows.append(len(offsets))
            if isinstance(facts, BadRecordError):
                bad.add(facts)
                continue
            shape = shape or facts.shape
            if facts.shape != shape:
                problem = f"it has {facts.shape}, the records before it {shape}"
                bad.add(shard_format.bad_record(path, offset, number, problem))
                continue
            if limits is not None and not limits.include(facts.largest_id, facts.length):
                exceeds_limits = True
                try:
                    limits.check(shard.read(offset, number).record)
                except ValueError as error:
                    bad.add(shard_format.bad_record(path, offset, number, error))
                    continue
            offsets.append(offset)
            lengths.append(facts.length)
            checksums.append(facts.checksum)
            largest_id = max(largest_id, facts.largest_id)
    if not rows:
        raise DataError(f"{path}: the shard is empty; delete it, or create it again")
    if shape is None or not offsets:
        raise DataError(f"{next(iter(bad.found))}; the shard has no good record: delete it, or create it again")
    # Bad records at the end of the file have no good record after them: the modulus gives them the first good one.
    chosen = np.array(rows) % len(offsets)
    arrays = (np.array(offsets)[chosen], np.array(lengths)[chosen], np.array(checksums)[chosen])
    return ShardIndex(path, shape, *arrays, _digest(shape, *arrays[1:]), list(bad.found), largest_id, exceeds_limits)


def _digest(shape: RecordShape, lengths: NDArray[np.int32], checksums: NDArray[np.uint32]) -> str:
    return hashlib.sha256(f"{shape}".encode() + lengths.tobytes() + checksums.tobytes()).hexdigest()


def folder_beside(path: Path) -> Path:
    """Return the folder for the index of a shard beside the shard itself."""
    return path.parent / BESIDE


def _index_path(path: Path, index_dir: Path, limits: RecordLimits | None) -> Path:
    """Return the path that the names of a shard's index files begin with.

    It contains a hash of the shard's name, size and modification time, so a changed shard has another index, and of
    the limits, if any. In a folder elsewhere the hash includes the shard's path. Beside the shard it does not: the data
    may be mounted at another path on another host or in a container.
    """
    try:
        stat = path.stat()
    except OSError as error:
        raise DataError(f"{path} cannot be opened: {error.strerror}") from None
    place = path.name if index_dir == folder_beside(path) else path.resolve()
    identity = f"{place}\0{stat.st_size}\0{stat.st_mtime_ns}\0{limits}\0{_VERSION}"
    return index_dir / f"{path.name[:_NAME_CHARACTERS]}.{hashlib.sha256(os.fsencode(identity)).hexdigest()[:16]}"


def _part(target: Path, name: str) -> Path:
    """Return the path of one of an index's files: an array of `_ARRAYS`, or "json" for the other facts."""
    return target.with_name(f"{target.name}.{name}")


def find_index(
    path: Path, index_dir: Path, limits: RecordLimits | None = None, *, verify: bool = True
) -> ShardIndex | None:
    """Return the stored index of a shard as it is now, beside the shard or in `index_dir`, or None.

    An index without limits is used for every model whose limits its records meet. Its arrays are memory-mapped, so
    ranks and workers share their memory. With `verify`, an index whose bytes are not as they were written does not
    count: each byte is compared.
    """
    for folder in (folder_beside(path), index_dir):
        for condition in dict.fromkeys((None, limits)):
            target = _index_path(path, folder, condition)
            with contextlib.suppress(DamageError, OSError, ValueError, KeyError, TypeError):
                index = _read(path, target, verify=verify)
                if condition == limits or limits is None or limits.include(index.largest_id, int(index.lengths.max())):
                    return index
    return None


def _read(path: Path, target: Path, *, verify: bool) -> ShardIndex:
    facts = read_json(_part(target, "json"))
    if facts.pop("crc32c") != _checksum(facts):
        raise ValueError("its facts are damaged")
    shape = RecordShape(facts["max_seq_length"], facts["max_predictions"])
    arrays: dict[str, Any] = {name: np.memmap(_part(target, name), dtype, mode="r") for name, dtype in _ARRAYS.items()}
    if {len(array) for array in arrays.values()} != {facts["records"]}:
        raise ValueError("its arrays are not as long as it says")
    if verify and facts["arrays_crc32c"] != {name: crc32c_of(_part(target, name)) for name in _ARRAYS}:
        raise ValueError("its arrays are damaged")
    return ShardIndex(
        path, shape, **arrays, digest=facts["digest"], bad_records=facts["bad_records"], largest_id=facts["largest_id"],
        stored_at=target,
    )  # fmt: skip


def _reopen(path: Path, target: Path) -> ShardIndex:
    try:
        return _read(path, target, verify=False)
    except (DamageError, OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"the index {target} of {path} cannot be read any more: {error}; run the command again"
        ) from None


def _checksum(facts: Mapping[str, Any]) -> int:
    return google_crc32c.value(json.dumps(facts).encode())


def load_index(path: Path, index_dir: Path, limits: RecordLimits | None = None) -> ShardIndex:
    """Return `find_index` without `verify`; raise `DataError` if the shard has changed since it was indexed."""
    index = find_index(path, index_dir, limits, verify=False)
    if index is None:
        raise DataError(
            f"{path} changed after its records were checked; run the same command again when it is complete"
        )
    return index


def make_index(
    path: Path, index_dir: Path, limits: RecordLimits | None = None, max_bad_records: int = 0, *, wait: bool = True
) -> bool:
    """Scan a shard and store its index, unless it has one; return whether it has one now.

    While another process scans the shard, this returns False, or with `wait` waits for its index for some time and then
    scans the shard too. Any process stores the same bytes, so the lock avoids work, but nothing depends on it.
    """
    deadline = time.monotonic() + (_PATIENCE_SECONDS if wait else 0)
    make_folder(index_dir)
    while True:
        with file_lock(_part(_index_path(path, index_dir, None), "lock")) as is_mine:
            if find_index(path, index_dir, limits) is not None:
                return True
            if is_mine or (wait and time.monotonic() >= deadline):
                _remove_leftovers(index_dir)
                _scan_and_store(path, index_dir, limits, max_bad_records)
                return True
        if not wait:
            return False
        time.sleep(_POLL_SECONDS)


def _remove_leftovers(index_dir: Path) -> None:
    """Delete temporary files that killed processes left in the folder, where others may be writing now."""
    for leftover in partial_files(index_dir):
        with contextlib.suppress(OSError):
            if time.time() - leftover.stat().st_mtime > _LEFTOVER_SECONDS:
                leftover.unlink()


def _scan_and_store(path: Path, index_dir: Path, limits: RecordLimits | None, max_bad_records: int) -> None:
    before = _index_path(path, index_dir, limits)
    index = scan_shard(path, limits, max_bad_records)
    if _index_path(path, index_dir, limits) != before:
        raise DataError(
            f"{path} changed while its records were checked; run the same command again when it is complete"
        )
    target = _index_path(path, index_dir, limits if index.exceeds_limits else None)
    # The JSON file is written last: an index is complete if and only if it has one.
    for name in _ARRAYS:
        with write_atomically(_part(target, name)) as file:
            file.write(getattr(index, name).data)
    facts = {
        **dataclasses.asdict(index.shape),
        "records": len(index.offsets),
        "largest_id": index.largest_id,
        "digest": index.digest,
        "bad_records": index.bad_records,
        "arrays_crc32c": {name: crc32c_of(_part(target, name)) for name in _ARRAYS},
    }
    with write_atomically(_part(target, "json")) as file:
        file.write(json.dumps({**facts, "crc32c": _checksum(facts)}).encode())


def build_indexes(
    paths: Sequence[Path],
    index_dir: Path,
    on_shard: Callable[[int, int], None],
    limits: RecordLimits | None = None,
    max_bad_records: int = 0,
) -> None:
    """Scan the shards that have no index yet, in parallel; calls `on_shard(done, total)` after each.

    Shards that other processes are scanning come last. Every shard may have up to `max_bad_records` bad records. The
    caller checks the sum over all shards.
    """
    missing = [path for path in paths if find_index(path, index_dir, limits) is None]
    done, total = 0, len(missing)
    for wait in (False, True):
        make = partial(make_index, index_dir=index_dir, limits=limits, max_bad_records=max_bad_records, wait=wait)
        busy = []
        for path, has_index in zip(missing, _make_all(missing, make), strict=True):
            if not has_index:
                busy.append(path)
                continue
            done += 1
            on_shard(done, total)
        missing = busy


def _make_all(paths: Sequence[Path], make: Callable[[Path], bool]) -> Iterator[bool]:
    """Yield the results of `make` for every shard, which runs in several processes if that is useful."""
    total_bytes = sum(path.stat().st_size for path in paths)
    workers = min(len(paths), len(os.sched_getaffinity(0)), 1 + total_bytes // _BYTES_PER_PROCESS)
    if workers > 1 or any(format_of(path).can_crash for path in paths):
        return _make_in_processes(paths, make, workers)
    return map(make, paths)


def _make_in_processes(paths: Sequence[Path], make: Callable[[Path], bool], workers: int) -> Iterator[bool]:
    """Scan shards in other processes, because a library can crash on a damaged file; such a shard is named.

    A pool is unusable once one of its processes has died, and does not report which shard that process had. So the
    remaining shards are scanned one at a time, each in a pool of its own.
    """
    require_semaphores()
    done = 0
    try:
        # Spawned, not forked: the caller's threads (OpenMP, gloo) do not survive a fork.
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=end_with_parent) as pool:
            for has_index in pool.map(make, paths):
                done += 1
                yield has_index
    except BrokenProcessPool:
        if len(paths) > 1:
            for path in paths[done:]:
                yield from _make_in_processes([path], make, 1)
            return
        raise crash_error(paths[0]) from None


def crash_error(path: Path) -> DataError:
    """Return the error about a shard on which a process that scanned it has crashed."""
    return DataError(
        f"{path}: the process that checked its records died: either damage in the file crashed the library that reads "
        "it, or memory ran out; create the shard again, or delete it"
    )
