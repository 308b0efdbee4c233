"""File formats of shards. A new format is one module with a `ShardFormat`, and an entry in `FORMATS`."""

from __future__ import annotations

from pathlib import Path

from bert_large.data.formats import hdf5, tfrecord
from bert_large.data.formats.shard_format import ShardFormat

FORMATS: dict[str, ShardFormat] = {shard_format.name: shard_format for shard_format in (tfrecord.FORMAT, hdf5.FORMAT)}


def format_of(path: Path) -> ShardFormat:
    """Return the format of a shard by its name: MLCommons' TFRecords have no suffix, other formats do."""
    return next((known for known in FORMATS.values() if path.suffix in known.suffixes), tfrecord.FORMAT)
