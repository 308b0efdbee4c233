"""A folder of shards as one sequence of records, any of which can be read at once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np
from numpy.typing import NDArray

from bert_large.config import PHASE_SEQ_LENGTHS
from bert_large.data import hdf5
from bert_large.data.index import ShardIndex, build_indexes, is_hdf5, list_shards, load_index
from bert_large.data.record import Record, RecordShape
from bert_large.data.tfrecord import decode_record, read_payload
from bert_large.errors import DataError, InputError

EVAL_FOLDERS = ("eval", "eval_set_uncompressed")


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
        on_shard: Callable[[int, int], None] = lambda done, total: None,
    ) -> Dataset:
        """Open a folder of shards; with `build`, index shards seen for the first time (others wait for that)."""
        paths = list_shards(folder)
        if build:
            build_indexes(paths, index_dir, on_shard)
        shards = [load_index(path, index_dir) for path in paths]
        for shard in shards[1:]:
            if shard.shape != shards[0].shape:
                raise DataError(
                    f"{shard.path} holds {shard.shape}, {shards[0].path} holds {shards[0].shape}; "
                    "a folder must hold records of one shape"
                )
        return cls(shards, np.cumsum([0, *(len(shard.offsets) for shard in shards)]))

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getstate__(self) -> dict[str, Any]:
        return {"shards": self.shards, "starts": self.starts, "_files": {}}

    @property
    def shape(self) -> RecordShape:
        """Slots of every record."""
        return self.shards[0].shape

    @property
    def max_token_id(self) -> int:
        """Largest token id of all records."""
        return max(shard.max_token_id for shard in self.shards)

    def total_tokens(self) -> int:
        """Return the number of real tokens of all records."""
        return sum(int(shard.lengths.sum(dtype=np.int64)) for shard in self.shards)

    def fingerprint(self) -> str:
        """Return a digest of names, sizes and record lengths: the same data gives the same digest anywhere."""
        digest = hashlib.sha256()
        for shard in self.shards:
            digest.update(f"{shard.path.name}\0{len(shard.offsets)}\0{shard.shape}\0".encode())
            digest.update(shard.lengths.tobytes())
        return digest.hexdigest()[:16]

    def lengths(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the token counts [n] of records `numbers` [n], from the index."""
        result = np.empty(len(numbers), dtype=np.int64)
        shard_of = np.searchsorted(self.starts, numbers, side="right") - 1
        for shard in np.unique(shard_of):
            chosen = shard_of == shard
            result[chosen] = self.shards[shard].lengths[numbers[chosen] - self.starts[shard]]
        return result

    def read(self, number: int) -> Record:
        """Read, check and decode one record."""
        shard_number = int(np.searchsorted(self.starts, number, side="right")) - 1
        shard = self.shards[shard_number]
        row = number - int(self.starts[shard_number])
        offset = int(shard.offsets[row])
        if is_hdf5(shard.path):
            (record,) = hdf5.read_rows(self._open_hdf5(shard_number), offset, offset + 1)
        else:
            payload = read_payload(self._open_tfrecord(shard_number), shard.path, offset)
            try:
                record, _ = decode_record(payload)
            except ValueError as error:
                raise DataError(f"{shard.path}: record {row} at byte {offset}: {error}") from None
        if len(record.input_ids) != shard.lengths[row]:
            raise DataError(f"{shard.path}: record {row} at byte {offset} changed since training started")
        return record

    def read_all(self, numbers: Sequence[int] | NDArray[np.int64]) -> list[Record]:
        """Read several records, in the order asked for."""
        return [self.read(int(number)) for number in numbers]

    def _open_tfrecord(self, shard: int) -> BinaryIO:
        if shard not in self._files:
            try:
                self._files[shard] = self.shards[shard].path.open("rb")
            except OSError as error:
                raise DataError(f"{self.shards[shard].path} cannot be opened any more: {error}") from None
        return self._files[shard]

    def _open_hdf5(self, shard: int) -> h5py.File:
        if shard not in self._files:
            self._files[shard] = hdf5.open_shard(self.shards[shard].path)
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


def check_fits_model(dataset: Dataset, *, vocab_size: int, max_positions: int) -> None:
    """Refuse records with tokens or positions that the model does not have."""
    folder = dataset.shards[0].path.parent
    if dataset.max_token_id >= vocab_size:
        raise InputError(
            f"the records of {folder} use token id {dataset.max_token_id}, the model's vocabulary has {vocab_size}; "
            "the records were made with a larger vocabulary than the model configuration's vocab_size"
        )
    longest = max(int(shard.lengths.max()) for shard in dataset.shards)
    if longest > max_positions:
        raise InputError(
            f"the records of {folder} have up to {longest} tokens, the model has {max_positions} positions; "
            "raise max_position_embeddings in the model configuration or use shorter records"
        )
