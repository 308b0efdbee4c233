"""A shard's index: where its records lie and how long they are, made by one checking pass and kept on disk.

The pass decodes every record once, so a damaged shard is found before training, not in the middle of it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bert_large.data import hdf5
from bert_large.data.record import Record, RecordShape
from bert_large.data.tfrecord import decode_record, iterate_payloads
from bert_large.errors import DataError, InputError
from bert_large.files import write_atomically
from bert_large.processes import end_with_parent

_FORMAT = 1
_HDF5_ROWS = 4096
HDF5_SUFFIXES = (".hdf5", ".h5")


@dataclass(frozen=True)
class ShardIndex:
    """What is known of one shard: its path, the shape of its records, and arrays over its records."""

    path: Path
    shape: RecordShape
    max_token_id: int
    offsets: NDArray[np.int64]
    """[records] byte offset of each TFRecord frame, or row number in HDF5."""
    lengths: NDArray[np.int32]
    """[records] real tokens of each record."""


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


def _iterate_records(path: Path) -> Iterator[tuple[int, Record, RecordShape]]:
    """Yield (offset, record, shape) of every record; `DataError` names the record by number and byte."""
    if is_hdf5(path):
        with hdf5.open_shard(path) as file:
            shape = hdf5.shard_shape(file)
            rows = len(file[hdf5.LABELS])
            for start in range(0, rows, _HDF5_ROWS):
                records = hdf5.read_rows(file, start, min(start + _HDF5_ROWS, rows))
                for number, record in enumerate(records, start=start):
                    yield number, record, shape
        return
    for number, (offset, payload) in enumerate(iterate_payloads(path)):
        try:
            record, shape = decode_record(payload)
        except ValueError as error:
            raise DataError(f"{path}: record {number} at byte {offset}: {error}") from None
        yield offset, record, shape


def scan_shard(path: Path) -> ShardIndex:
    """Read and check a whole shard."""
    offsets: list[int] = []
    lengths: list[int] = []
    max_token_id = 0
    first_shape: RecordShape | None = None
    for offset, record, shape in _iterate_records(path):
        first_shape = first_shape or shape
        if shape != first_shape:
            raise DataError(f"{path}: record {len(offsets)} has {shape}, the records before it {first_shape}")
        offsets.append(offset)
        lengths.append(len(record.input_ids))
        largest_label = int(record.masked_ids.max()) if record.masked_ids.size else 0
        max_token_id = max(max_token_id, int(record.input_ids.max()), largest_label)
    if first_shape is None:
        raise DataError(f"{path}: the shard is empty; remove it, or make it again")
    return ShardIndex(path, first_shape, max_token_id, np.array(offsets, np.int64), np.array(lengths, np.int32))


def _index_path(path: Path, index_dir: Path) -> Path:
    """Return where the index of a shard is kept; another size or modification time is another index."""
    stat = path.stat()
    identity = f"{path.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}\0{_FORMAT}"
    return index_dir / f"{path.name}.{hashlib.sha256(identity.encode()).hexdigest()[:16]}"


def _scan_and_keep(path: Path, index_dir: Path) -> None:
    target = _index_path(path, index_dir)
    index = scan_shard(path)
    # The arrays come first: an index is complete when its JSON is there.
    for name in ("offsets", "lengths"):
        with write_atomically(target.with_name(f"{target.name}.{name}.npy")) as file:
            np.save(file, getattr(index, name), allow_pickle=False)
    shape = index.shape
    facts = {"max_seq_length": shape.max_seq_length, "max_predictions": shape.max_predictions,
             "max_token_id": index.max_token_id}  # fmt: skip
    with write_atomically(target.with_name(f"{target.name}.json")) as file:
        file.write(json.dumps(facts).encode())


def load_index(path: Path, index_dir: Path) -> ShardIndex:
    """Load the kept index of a shard; its arrays are memory-mapped, so ranks and workers share them."""
    target = _index_path(path, index_dir)
    facts = json.loads(target.with_name(f"{target.name}.json").read_text())
    arrays = [np.load(target.with_name(f"{target.name}.{name}.npy"), mmap_mode="r", allow_pickle=False)
              for name in ("offsets", "lengths")]  # fmt: skip
    shape = RecordShape(facts["max_seq_length"], facts["max_predictions"])
    return ShardIndex(path, shape, facts["max_token_id"], *arrays)


def build_indexes(paths: Sequence[Path], index_dir: Path, on_shard: Callable[[int, int], None]) -> None:
    """Scan those shards whose index is not kept yet, in parallel; calls `on_shard(done, total)` after each."""
    index_dir.mkdir(parents=True, exist_ok=True)
    missing = [path for path in paths if not _index_path(path, index_dir).with_name(
        f"{_index_path(path, index_dir).name}.json").exists()]  # fmt: skip
    if not missing:
        return
    workers = min(len(missing), len(os.sched_getaffinity(0)))
    if workers == 1:
        for done, path in enumerate(missing, start=1):
            _scan_and_keep(path, index_dir)
            on_shard(done, len(missing))
        return
    # Spawned, not forked: the caller's threads (OpenMP, gloo) do not survive a fork.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=end_with_parent) as pool:
        results = pool.map(_scan_and_keep, missing, [index_dir] * len(missing))
        for done, _ in enumerate(results, start=1):
            on_shard(done, len(missing))
