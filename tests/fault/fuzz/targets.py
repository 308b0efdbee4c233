"""What is fuzzed: each reader on any bytes at all. Nothing but the documented error may come of it.

A target takes the fuzzer's bytes. `hdf5` and `tfrecord` take them as edits of a good shard, since few other bytes get
past the first check; the others take them as the file's contents.
"""

from __future__ import annotations

import atexit
import contextlib
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import h5py
import numpy as np
from bert_large.config.model import ModelConfig
from bert_large.data.dataset import Dataset
from bert_large.data.formats.hdf5 import write_shard as write_blocks
from bert_large.data.formats.tfrecord import encode_record, write_records
from bert_large.data.index import scan_shard
from bert_large.data.record import RecordLimits, RecordShape
from bert_large.errors import DataError, InputError
from bert_large.model.tensor_file import read_tensors
from bert_large.train.checkpoint import read_state

from tests.support.records import make_records, write_hdf5_shard, write_shard

SHAPE = RecordShape(12, 4)
LIMITS = RecordLimits(100, 12)
RECORDS = make_records(4, lengths=(5, 12))
MAX_BAD_RECORDS = 1000


@cache
def folder() -> Path:
    """Return where this process puts its files."""
    path = Path(tempfile.mkdtemp(prefix="bert-large-fuzz-"))
    atexit.register(shutil.rmtree, path)
    return path


def tfrecord(data: bytes) -> None:
    """Read a TFRecord shard that was edited."""
    (base,) = _good_shards("")
    check_shard("shard", edited(base, data))


def example(data: bytes) -> None:
    """Read a TFRecord shard whose framing is right around any payload, between two good records."""
    good = [encode_record(record, SHAPE) for record in RECORDS[:2]]
    path = folder() / "framed"
    with path.open("wb") as file:
        write_records(file, [good[0], data, good[1]])
    check_shard("shard", path.read_bytes())


def hdf5(data: bytes) -> None:
    """Read one of three HDF5 shards, ours, NVIDIA's and one without compression, that was edited."""
    bases = _good_shards(".hdf5")
    check_shard("shard.hdf5", edited(bases[data[0] % len(bases) if data else 0], data[1:]))


def checkpoint(data: bytes) -> None:
    """Read a checkpoint's state and weights and a model's configuration."""
    path = folder() / "step-00000001"
    path.mkdir(exist_ok=True)
    readers: list[tuple[str, Callable[[], object]]] = [
        ("state.json", lambda: read_state(path)),
        ("model.safetensors", lambda: read_tensors(path / "model.safetensors", ["weight"])),
        ("config.json", lambda: ModelConfig.from_json(path / "config.json")),
    ]
    name, read = readers[data[0] % len(readers) if data else 0]
    (path / name).write_bytes(data[1:])
    with contextlib.suppress(InputError):
        read()


TARGETS: dict[str, Callable[[bytes], None]] = {
    "tfrecord": tfrecord,
    "example": example,
    "hdf5": hdf5,
    "checkpoint": checkpoint,
}


def check_shard(name: str, content: bytes) -> None:
    """Scan a shard strictly and leniently: `DataError`, or an index all of whose records can be read.

    A damaged HDF5 file can have other rows in it when they are read one by one: that is found then, by the checksum.
    """
    path = folder() / name
    path.write_bytes(content)
    for max_bad_records in (0, MAX_BAD_RECORDS):
        try:
            index = scan_shard(path, LIMITS, max_bad_records)
        except DataError as error:
            assert str(error).startswith(str(path)), error
            continue
        assert bool(index.bad_records) <= bool(max_bad_records)
        dataset = Dataset([path], [1], folder(), shards=[index], starts=np.array([0, len(index.offsets)]))
        for row in range(len(index.offsets)):
            try:
                LIMITS.check(dataset._read_row(0, row))
            except DataError:
                assert path.suffix == ".hdf5"
        dataset.close()


def edited(base: bytes, data: bytes) -> bytes:
    """Return `base` with what `data` says done to it: three bytes each of place and new byte, the last one a cut."""
    content = bytearray(base)
    for start in range(0, len(data) - 2, 3):
        place = int.from_bytes(data[start : start + 2], "little") % len(content)
        content[place] ^= data[start + 2]
    rest = data[len(data) - len(data) % 3 :]
    return bytes(content[: len(content) - int.from_bytes(rest, "little") % len(content)] if rest else content)


@cache
def _good_shards(suffix: str) -> list[bytes]:
    path = folder() / f"good{suffix}"
    if not suffix:
        return [write_shard(path, RECORDS, SHAPE).read_bytes()]
    contents = [write_hdf5_shard(path, RECORDS, SHAPE).read_bytes()]
    write_blocks(path, RECORDS, len(RECORDS), SHAPE)
    contents.append(path.read_bytes())
    with h5py.File(path) as file, h5py.File(folder() / "plain.hdf5", "w") as plain:
        for name in file:
            plain.create_dataset(name, data=file[name][:])
    contents.append((folder() / "plain.hdf5").read_bytes())
    return contents
