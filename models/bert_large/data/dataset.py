"""A folder of shards as one sequence of records, any of which can be read at any time.

Training reads single records in random order. A stream of records with a shuffle buffer would read the disk in order,
but the sample at a position would then depend on everything read before it: on the number of ranks, on where a run was
interrupted, on the buffer's size. With random access a sample is a function of its position alone, the records of all
files are shuffled with each other (in the first epoch within windows: `data.windows`), and a run resumes at any step
without reading what came before. One record is 1 to 5 kB: page cache and read-ahead workers hide the cost of seeking.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bert_large.config.training import PHASE_SEQ_LENGTHS
from bert_large.data.folders import list_shards
from bert_large.data.formats.shard_format import Shard
from bert_large.data.index import ShardIndex, build_indexes, find_index, load_index, make_index
from bert_large.data.record import BadRecordError, BadRecords, Record, RecordLimits, RecordShape
from bert_large.data.windows import WindowSettings, divide
from bert_large.errors import DataError, InputError

MAX_OPEN_FILES = 512
"""Shards open at once: processes are often limited to 1024 files, and NVIDIA's data have 2048 shards."""


@dataclass
class Dataset:
    """The records of several shards as one numbered sequence, in windows that are opened when they are needed.

    Pickled without its open files.
    """

    paths: Sequence[Path]
    """The shards in the order of the record numbers."""
    ends: Sequence[int]
    """Number of shards up to the end of each window (see `data.windows`)."""
    index_dir: Path
    limits: RecordLimits | None = None
    max_bad_records: int = 0
    shards: list[ShardIndex] = field(default_factory=list, repr=False)
    """The indexes of the shards of all open windows."""
    starts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(1, np.int64), repr=False)
    """[shards + 1] number of the first record of each shard, then the number of records in all open windows."""
    _open_shards: dict[int, Shard] = field(default_factory=dict, repr=False)
    _unreported: list[str] = field(default_factory=list, repr=False)

    @classmethod
    def open(
        cls, folder: Path, index_dir: Path, *, build: bool, limits: RecordLimits | None = None,
        max_bad_records: int = 0, on_shard: Callable[[int, int], None] = lambda done, total: None,
        windows: WindowSettings | None = None,
    ) -> Dataset:  # fmt: skip
        """Open a folder of shards, and its first window: without `windows`, all of it.

        With `build`, first index the shards of that window that have no index yet, and of others if there is time: one
        process does that, and the others open the folder after it. Raises `DataError` if more than `max_bad_records` of
        all records are bad or exceed `limits`.
        """
        dataset = cls(*divide(list_shards(folder), windows), index_dir, limits, max_bad_records)
        if build:
            dataset._build_first(0.0 if windows is None else windows.start_seconds, on_shard)
        dataset._open_window(build=False)
        dataset.take_unreported()
        return dataset

    def build_indexes(self, window: int, on_shard: Callable[[int, int], None] = lambda done, total: None) -> None:
        """Index the shards up to the end of a window that are neither open nor indexed, in parallel."""
        paths = self.paths[len(self.shards) : self.ends[window]]
        build_indexes(paths, self.index_dir, on_shard, self.limits, self.max_bad_records)

    def _build_first(self, seconds: float, on_shard: Callable[[int, int], None]) -> None:
        """Index the first window; if it is new, also others while that takes no longer than `seconds` in all."""
        started = now = time.monotonic()
        is_new = bool(self._without_index(self.paths[: self.ends[0]]))
        self.build_indexes(0, on_shard)
        if not is_new:
            return
        for first, end in itertools.pairwise(self.ends):
            latest, now = time.monotonic() - now, time.monotonic()
            if now + latest - started > seconds:  # the next window may take as long as the last one
                return
            paths = self._without_index(self.paths[first:end])
            build_indexes(paths, self.index_dir, on_shard, self.limits, self.max_bad_records)

    def is_indexed(self) -> bool:
        """Return whether all shards have an index now."""
        return not self._without_index(self.paths[len(self.shards) :])

    def _without_index(self, paths: Sequence[Path]) -> list[Path]:
        """Return the shards without an index, which is not verified here but when it is opened."""
        how = (self.index_dir, self.limits)
        return [path for path in paths if find_index(path, *how, verify=False) is None]

    def _open_window(self, *, build: bool = True) -> None:
        """Open the next window; with `build`, index its shards that have no index yet in this process.

        Shards that other processes are indexing come last.
        """
        paths = self.paths[len(self.shards) : self.ends[self.open_windows]]
        how = (self.index_dir, self.limits)
        if build:
            missing = [path for path in paths if find_index(path, *how) is None]
            for path in [path for path in missing if not make_index(path, *how, self.max_bad_records, wait=False)]:
                make_index(path, *how, self.max_bad_records)
        shards = [load_index(path, *how) for path in paths]
        for shard in shards:
            first = (self.shards or shards)[0]
            if shard.shape != first.shape:
                raise DataError(
                    f"{shard.path} holds {shard.shape}, {first.path} holds {first.shape}; "
                    "a folder must hold records of one shape"
                )
        self.shards = [*self.shards, *shards]
        self.starts = np.cumsum([0, *(len(shard.offsets) for shard in self.shards)])
        self._unreported += [message for shard in shards for message in shard.bad_records]
        self.count_bad_records(self.max_bad_records)

    def __len__(self) -> int:
        """Return the number of records in all open windows."""
        return int(self.starts[-1])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open_shards": {}, "_unreported": []}

    @property
    def window_count(self) -> int:
        """Number of windows."""
        return len(self.ends)

    @property
    def open_windows(self) -> int:
        """Number of windows that are open."""
        return bisect.bisect_right(self.ends, len(self.shards))

    def window_end(self, window: int) -> int:
        """Return the number of records in all windows up to and including this one, which is opened if necessary."""
        while self.open_windows <= window:
            self._open_window()
        return int(self.starts[self.ends[window]])

    def window_digest(self, window: int) -> str:
        """Return a digest of file names and records of an open window."""
        digest = hashlib.sha256()
        for shard in self.shards[self.ends[window - 1] if window else 0 : self.ends[window]]:
            digest.update(os.fsencode(f"{shard.path.name}\0{shard.digest}\0"))
        return digest.hexdigest()[:16]

    def take_unreported(self) -> list[str]:
        """Return the error message of each bad record in the windows opened since the last call."""
        messages, self._unreported = self._unreported, []
        return messages

    @property
    def shape(self) -> RecordShape:
        """Padded length of every record."""
        return self.shards[0].shape

    def count_bad_records(self, most: int) -> BadRecords:
        """Return the records that were bad when the shards were indexed; raises `DataError` if there are too many."""
        bad = BadRecords(most)
        for shard in self.shards:
            for message in shard.bad_records:
                bad.add(BadRecordError(message))
        return bad

    def count_records(self) -> int:
        """Return the number of records of all shards; indexes and opens the windows that are not open yet."""
        self.build_indexes(self.window_count - 1)
        return self.window_end(self.window_count - 1)

    def estimate_records(self) -> float:
        """Return the number of records of all shards, estimated from the shards' sizes and the open windows."""
        known, total = (
            sum(path.stat().st_size for path in paths) for paths in (self.paths[: len(self.shards)], self.paths)
        )
        return len(self) * total / known

    def total_tokens(self) -> int:
        """Return the number of real tokens of all records in open windows."""
        return sum(int(shard.lengths.sum(dtype=np.int64)) for shard in self.shards)

    def fingerprint(self) -> str:
        """Return a digest that is equal for copies of the data on any machine.

        It covers the file names and the records if there is one window. If there are several, not all records are known
        when a run starts: then it covers the names and sizes of all files, and `window_digest` the records.
        """
        if self.window_count == 1:
            return self.window_digest(0)
        digest = hashlib.sha256()
        for path in sorted(self.paths):
            digest.update(os.fsencode(f"{path.name}\0{path.stat().st_size}\0"))
        return digest.hexdigest()[:16]

    def lengths(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the token counts [n] of records `numbers` [n], from the index."""
        result = np.empty(len(numbers), dtype=np.int64)
        if len(numbers):
            self._open_through(int(numbers.max()))
        shard_of = np.searchsorted(self.starts, numbers, side="right") - 1
        for shard in np.unique(shard_of):
            chosen = shard_of == shard
            result[chosen] = self.shards[shard].lengths[numbers[chosen] - self.starts[shard]]
        return result

    def locate(self, number: int) -> tuple[ShardIndex, int]:
        """Return the shard that holds a record, and the record's number in the shard."""
        shard_number = self._shard_of(number)
        return self.shards[shard_number], number - int(self.starts[shard_number])

    def read(self, number: int, bad: BadRecords | None = None) -> Record:
        """Read, check and decode one record.

        A bad record is added to `bad` and replaced by the next good record of its shard; without `bad` it is an error.
        Raises `DataError` if the shard as a whole cannot be read.
        """
        shard_number = self._shard_of(number)
        shard, first = self.shards[shard_number], number - int(self.starts[shard_number])
        for row in range(first, first + len(shard.offsets)):
            try:
                return self._read_row(shard_number, row % len(shard.offsets))
            except BadRecordError as error:
                if bad is None:
                    raise
                bad.add(error)
        raise DataError(f"{shard.path}: none of its {len(shard.offsets)} records can be read any more")

    def read_all(self, numbers: Sequence[int] | NDArray[np.int64], bad: BadRecords | None = None) -> list[Record]:
        """Read several records, in the order of `numbers`."""
        return [self.read(int(number), bad) for number in numbers]

    def close(self) -> None:
        """Close all files; they are opened again when a record is read."""
        while self._open_shards:
            self._open_shards.popitem()[1].close()

    def _open_through(self, number: int) -> None:
        while number >= len(self) and self.open_windows < self.window_count:
            self._open_window()

    def _shard_of(self, number: int) -> int:
        self._open_through(number)
        return int(np.searchsorted(self.starts, number, side="right")) - 1

    def _read_row(self, shard_number: int, row: int) -> Record:
        shard = self.shards[shard_number]
        offset, number = int(shard.offsets[row]), shard.number_of(row)
        stored = self._open(shard_number).read(offset, number)
        # A shard replaced during a run may well hold valid records at the same offsets. The index's lengths and the
        # run's fingerprint are not those of the new records, so they must not enter the run.
        if stored.checksum != shard.checksums[row]:
            change = f"from checksum {shard.checksums[row]:#010x} to {stored.checksum:#010x}"
            raise shard.format.bad_record(shard.path, offset, number, f"it changed since it was indexed, {change}")
        return stored.record

    def _open(self, shard_number: int) -> Shard:
        if shard_number not in self._open_shards:
            if len(self._open_shards) == MAX_OPEN_FILES:
                self._open_shards.pop(next(iter(self._open_shards))).close()
            shard = self.shards[shard_number]
            self._open_shards[shard_number] = shard.format.open(shard.path)
        return self._open_shards[shard_number]


def check_training_data(dataset: Dataset, *, max_seq_length: int, phase: int) -> None:
    """Raise `InputError` unless the records have the phase's sequence length."""
    found, folder = dataset.shape.max_seq_length, dataset.shards[0].path.parent
    if found != max_seq_length:
        fitting = next((str(number) for number, length in PHASE_SEQ_LENGTHS.items() if length == found), None)
        advice = f"train them with phase {fitting}" if fitting else f"give --max-seq-length {found}"
        raise InputError(
            f"the records of {folder} have {found} token slots, phase {phase} expects {max_seq_length}; {advice} "
            "or name other records in DATASET_DIR"
        )
