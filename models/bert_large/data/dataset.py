"""A folder of shards as one sequence of records, any of which can be read at once."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bert_large.config.training import PHASE_SEQ_LENGTHS
from bert_large.data import hdf5
from bert_large.data.index import ShardIndex, bad_record, build_indexes, is_hdf5, list_shards, load_index
from bert_large.data.record import BadRecordError, BadRecords, Record, RecordLimits, RecordShape
from bert_large.data.tfrecord import decode_record, masked_crc32c, open_shard, read_payload
from bert_large.errors import DataError, InputError

EVAL_FOLDERS = ("eval", "eval_set_uncompressed")
MAX_OPEN_FILES = 512  # a process may often have 1024; NVIDIA's data are 2048 shards


def find_training_folder(dataset_dir: Path, max_seq_length: int) -> Path:
    """Return the folder of shards for a sequence length: a known sub-folder of `dataset_dir`, or itself."""
    if not dataset_dir.is_dir():
        raise InputError(f"DATASET_DIR {dataset_dir} does not exist or is no folder")
    names = (f"seq_{max_seq_length}", f"hdf5_seq_{max_seq_length}", f"2048_shards_uncompressed_{max_seq_length}")
    for name in names:
        if (dataset_dir / name).is_dir():
            return dataset_dir / name
    if any(path.is_file() and not path.name.startswith(".") for path in dataset_dir.iterdir()):
        return dataset_dir
    raise InputError(
        f"DATASET_DIR {dataset_dir} holds no data for {max_seq_length} tokens; expected {' or '.join(names)} in it, "
        "or the shards themselves"
    )


def find_eval_folder(dataset_dir: Path) -> Path | None:
    """Return the evaluation folder that lies in a dataset folder, if one does."""
    return next((dataset_dir / name for name in EVAL_FOLDERS if (dataset_dir / name).is_dir()), None)


@dataclass
class Dataset:
    """The records of several shards, numbered through in file order. Pickles without its open files."""

    shards: list[ShardIndex]
    starts: NDArray[np.int64]
    """[shards + 1] number of the first record of each shard, then the total."""
    _files: dict[int, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def open(
        cls,
        folder: Path,
        index_dir: Path,
        *,
        build: bool,
        limits: RecordLimits | None = None,
        max_bad_records: int = 0,
        on_shard: Callable[[int, int], None] = lambda done, total: None,
    ) -> Dataset:
        """Open a folder of shards; with `build`, index shards seen for the first time (others wait for that).

        Raises `DataError` when more than `max_bad_records` of all records are bad or beyond `limits`.
        """
        paths = list_shards(folder)
        if build:
            build_indexes(paths, index_dir, on_shard, limits, max_bad_records)
        shards = [load_index(path, index_dir, limits) for path in paths]
        for shard in shards[1:]:
            if shard.shape != shards[0].shape:
                raise DataError(
                    f"{shard.path} holds {shard.shape}, {shards[0].path} holds {shards[0].shape}; "
                    "a folder must hold records of one shape"
                )
        dataset = cls(shards, np.cumsum([0, *(len(shard.offsets) for shard in shards)]))
        dataset.count_bad_records(max_bad_records)
        return dataset

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getstate__(self) -> dict[str, Any]:
        return {"shards": self.shards, "starts": self.starts, "_files": {}}

    @property
    def shape(self) -> RecordShape:
        """Slots of every record."""
        return self.shards[0].shape

    def count_bad_records(self, most: int) -> BadRecords:
        """Return those that were bad when the shards were indexed. Raises `DataError` if they are more than `most`."""
        bad = BadRecords(most)
        for shard in self.shards:
            for message in shard.bad_records:
                bad.add(BadRecordError(message))
        return bad

    def total_tokens(self) -> int:
        """Return the number of real tokens of all records."""
        return sum(int(shard.lengths.sum(dtype=np.int64)) for shard in self.shards)

    def fingerprint(self) -> str:
        """Return a digest of names and records: the same data gives the same digest anywhere."""
        digest = hashlib.sha256()
        for shard in self.shards:
            digest.update(os.fsencode(f"{shard.path.name}\0{shard.digest}\0"))
        return digest.hexdigest()[:16]

    def lengths(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the token counts [n] of records `numbers` [n], from the index."""
        result = np.empty(len(numbers), dtype=np.int64)
        shard_of = np.searchsorted(self.starts, numbers, side="right") - 1
        for shard in np.unique(shard_of):
            chosen = shard_of == shard
            result[chosen] = self.shards[shard].lengths[numbers[chosen] - self.starts[shard]]
        return result

    def locate(self, number: int) -> tuple[ShardIndex, int]:
        """Return the shard that a record lies in, and its number there."""
        shard_number = self._shard_of(number)
        return self.shards[shard_number], number - int(self.starts[shard_number])

    def read(self, number: int, bad: BadRecords | None = None) -> Record:
        """Read, check and decode one record.

        A bad record is told to `bad` and the next good one of its shard taken; without `bad` it is an error. Raises
        `DataError` when the shard cannot be read at all.
        """
        shard_number = self._shard_of(number)
        shard, row = self.shards[shard_number], number - int(self.starts[shard_number])
        for following in range(row, row + len(shard.offsets)):
            try:
                return self._read_row(shard_number, following % len(shard.offsets))
            except BadRecordError as error:
                if bad is None:
                    raise
                bad.add(error)
        raise DataError(f"{shard.path}: none of its {len(shard.offsets)} records can be read any more")

    def read_all(self, numbers: Sequence[int] | NDArray[np.int64], bad: BadRecords | None = None) -> list[Record]:
        """Read several records, in the order asked for."""
        return [self.read(int(number), bad) for number in numbers]

    def close(self) -> None:
        """Close the files; reading opens them again."""
        while self._files:
            self._files.popitem()[1].close()

    def _shard_of(self, number: int) -> int:
        return int(np.searchsorted(self.starts, number, side="right")) - 1

    def _read_row(self, shard_number: int, row: int) -> Record:
        shard = self.shards[shard_number]
        offset, number = int(shard.offsets[row]), shard.number_of(row)
        if is_hdf5(shard.path):
            file = self._open(shard_number, hdf5.open_shard)
            if offset >= len(file[hdf5.LABELS]):
                raise DataError(
                    f"{shard.path}: row {offset} is not there any more: the file changed since it was indexed"
                )
            (record,) = hdf5.read_rows(file, offset, offset + 1)
            checksum = hdf5.record_checksum(record)
        else:
            payload = read_payload(self._open(shard_number, open_shard), shard.path, offset, number)
            checksum = masked_crc32c(payload)
        if checksum != shard.checksums[row]:
            problem = f"it changed since it was indexed, from checksum {shard.checksums[row]:#010x} to {checksum:#010x}"
            raise bad_record(shard.path, offset, number, ValueError(problem))
        if not is_hdf5(shard.path):
            record, _ = decode_record(payload)
        return record

    def _open(self, shard: int, opener: Callable[[Path], Any]) -> Any:
        if shard not in self._files:
            if len(self._files) == MAX_OPEN_FILES:
                self._files.pop(next(iter(self._files))).close()
            self._files[shard] = opener(self.shards[shard].path)
        return self._files[shard]


def check_training_data(dataset: Dataset, *, max_seq_length: int, phase: int) -> None:
    """Refuse records of another length than the phase's."""
    found, folder = dataset.shape.max_seq_length, dataset.shards[0].path.parent
    if found != max_seq_length:
        fitting = next((str(number) for number, length in PHASE_SEQ_LENGTHS.items() if length == found), None)
        advice = f"train them with phase {fitting}" if fitting else f"give --max-seq-length {found}"
        raise InputError(
            f"the records of {folder} have {found} token slots, phase {phase} expects {max_seq_length}; {advice} "
            "or name other records in DATASET_DIR"
        )
