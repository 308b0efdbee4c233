"""What a file format of shards provides to the rest of the package."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bert_large.data.record import BadRecordError, Record, RecordShape


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """A record read from a shard, with the facts that the index keeps about it."""

    record: Record
    shape: RecordShape
    checksum: int
    """32-bit checksum of the record's contents, equal whenever the stored record is the same."""


@dataclass(frozen=True, slots=True)
class RecordFacts:
    """What the index keeps or checks of a record."""

    shape: RecordShape
    length: int
    """Number of real tokens."""
    largest_id: int
    """Largest token id, as an input or as a label."""
    checksum: int
    """That of `StoredRecord`."""

    @classmethod
    def of(cls, stored: StoredRecord) -> RecordFacts:
        """Return the facts about a record that has been read."""
        record = stored.record
        largest_id = int(max(record.input_ids.max(), record.masked_ids.max(initial=0)))
        return cls(stored.shape, len(record.input_ids), largest_id, stored.checksum)


class Shard(Protocol):
    """A shard opened for reading."""

    def scan(self) -> Iterator[tuple[int, RecordFacts | BadRecordError]]:
        """Check every record in file order; yield its offset with facts about it, or with an error if it is damaged."""

    def read(self, offset: int, number: int) -> StoredRecord:
        """Read the record at `offset`, which is the shard's `number`th; raises `BadRecordError` if it is damaged.

        Raises `DataError` if the shard as a whole is no longer the one that was indexed.
        """

    def close(self) -> None:
        """Close the file."""


@dataclass(frozen=True, kw_only=True)
class ShardFormat:
    """A file format: how its shards are recognized, read and written."""

    name: str
    """Name on the command line."""
    suffixes: tuple[str, ...]
    """File name suffixes; empty for the format of all files without a known suffix."""
    offset_unit: str
    """What a record's offset counts, such as bytes or rows."""
    place: str
    """Template for the place of a record in error messages, with the fields `number` and `offset`."""
    can_crash: bool
    """Whether the library that reads the format can crash the process on a damaged file."""
    open: Callable[[Path], Shard]
    """Open a shard; raises `DataError` if it cannot be read at all."""
    write: Callable[[Path, Iterable[Record], int, RecordShape], None]
    """Write a shard at a path: the records, their number, and the shape to pad them to."""

    def bad_record(self, path: Path, offset: int, number: int, problem: object) -> BadRecordError:
        """Return an error that names the shard, the record's place in it and the problem."""
        return BadRecordError(f"{path}: {self.place.format(number=number, offset=offset)}: {problem}")
