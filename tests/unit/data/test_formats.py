"""Formats of shards: found by name, and all that a new one needs is a `ShardFormat`."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from bert_large.data.dataset import Dataset
from bert_large.data.formats import FORMATS, format_of, hdf5, tfrecord
from bert_large.data.formats.padded import field_widths, unpad_record
from bert_large.data.formats.shard_format import RecordFacts, ShardFormat, StoredRecord
from bert_large.data.loader import StepBatches
from bert_large.data.order import BatchSizes, SampleOrder
from bert_large.data.record import NO_PAIR, Record, RecordShape
from bert_large.errors import DataError

from tests.support.records import PHASE_1_SHAPE, assert_same_record, make_records, write_shard

RECORDS = make_records(6)
_TYPES = {"input_ids": np.int32, "token_type_ids": np.uint8, "masked_positions": np.int32, "masked_ids": np.int32}


class LinesShard:
    """A shard of one JSON array of fields per line; offsets are line numbers."""

    def __init__(self, path: Path) -> None:
        self._path, self._lines = path, path.read_text().splitlines()

    def scan(self) -> Iterator[tuple[int, RecordFacts]]:
        for number in range(len(self._lines)):
            yield number, RecordFacts.of(self.read(number, number))

    def read(self, offset: int, number: int) -> StoredRecord:
        try:
            fields = json.loads(self._lines[offset])
        except ValueError as error:
            raise LINES.bad_record(self._path, offset, number, error) from None
        arrays = [np.array(fields[name], dtype) for name, dtype in _TYPES.items()]
        record = Record(arrays[0], arrays[1], arrays[2], arrays[3], fields["label"])
        return StoredRecord(record, PHASE_1_SHAPE, hash(self._lines[offset]) & 0xFFFFFFFF)

    def close(self) -> None:
        self._lines = []


def write_lines(path: Path, records: Iterable[Record], count: int, shape: RecordShape) -> None:
    fields = [
        {**{name: getattr(record, name).tolist() for name in _TYPES}, "label": record.next_sentence_label}
        for record in records
    ]
    path.write_text("".join(f"{json.dumps(values)}\n" for values in fields))


LINES = ShardFormat(
    name="lines",
    suffixes=(".lines",),
    offset_unit="line",
    place="line {number}",
    can_crash=False,
    open=LinesShard,
    write=write_lines,
)


def test_formats_are_found_by_name() -> None:
    for name in ("part-00000-of-00500", "a.tfrecord", "b.hdf5.part"):
        assert format_of(Path(name)) is tfrecord.FORMAT
    for name in ("wiki_training_0.hdf5", "a.h5"):
        assert format_of(Path(name)) is hdf5.FORMAT


@pytest.mark.parametrize("shard_format", FORMATS.values(), ids=list(FORMATS))
def test_every_format_reads_what_it_writes(tmp_path: Path, shard_format: ShardFormat) -> None:
    path = tmp_path / f"shard{next(iter(shard_format.suffixes), '')}"
    shard_format.write(path, iter(RECORDS), len(RECORDS), PHASE_1_SHAPE)
    assert format_of(path) is shard_format
    shard = shard_format.open(path)
    scanned = list(shard.scan())
    for number, (offset, facts) in enumerate(scanned):
        stored = shard.read(offset, number)
        assert facts == RecordFacts.of(stored) and stored.shape == PHASE_1_SHAPE
        assert_same_record(stored.record, RECORDS[number])
    assert len({facts.checksum for _, facts in scanned if isinstance(facts, RecordFacts)}) == len(RECORDS)
    shard.close()


def test_a_new_format_is_one_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Index, dataset and loader work with it, also next to shards of another format."""
    monkeypatch.setitem(FORMATS, "lines", LINES)
    (tmp_path / "data").mkdir()
    path = tmp_path / "data" / "b.lines"
    LINES.write(path, RECORDS[3:], 3, PHASE_1_SHAPE)
    dataset = Dataset.open(tmp_path / "data", tmp_path / "index", build=True)
    write_shard(tmp_path / "data" / "a", RECORDS[:3])
    dataset = Dataset.open(tmp_path / "data", tmp_path / "index", build=True)
    for number, record in enumerate(RECORDS):
        assert_same_record(dataset.read(number), record)
    steps = StepBatches(dataset, SampleOrder(6, seed=0, shuffle=False), BatchSizes(6), 1000, 0, 1)
    assert [sample.get("line") for sample in steps.describe_samples(0)] == [None, None, None, 0, 1, 2]
    stat = path.stat()
    path.write_text(path.read_text().replace("[", "{", 1))
    with pytest.raises(DataError, match=rf"{path}: line 0: "):
        Dataset.open(tmp_path / "data", tmp_path / "index", build=True)
    assert path.stat().st_size == stat.st_size


@pytest.mark.parametrize("name", ["shard", "shard.hdf5"])
def test_records_of_several_parts(tmp_path: Path, name: str) -> None:
    """They are read as they were written, and a different division into parts has a different checksum."""
    records = [
        dataclasses.replace(record, next_sentence_label=NO_PAIR, part_starts=starts)
        for record, starts in zip(
            make_records(4, lengths=(20, 40)), [(0,), (0, 5), (0, 5, 6, 19), (0, 19)], strict=True
        )
    ]
    twin = dataclasses.replace(records[1], part_starts=(0, 6))
    path = tmp_path / name
    format_of(path).write(path, iter([*records, twin]), 5, PHASE_1_SHAPE)
    with contextlib.closing(format_of(path).open(path)) as shard:
        offsets = [offset for offset, _ in shard.scan()]
        stored = [shard.read(offset, number) for number, offset in enumerate(offsets)]
    for found, expected in zip(stored, [*records, twin], strict=True):
        assert_same_record(found.record, expected)
    assert len({found.checksum for found in stored}) == 5


BAD_PARTS = [([1, 1, 3, 3], -1), ([2, 2, 2, 2], -1), ([1, 2, 1, 2], -1), ([1, 1, 2, 2], 0), ([1, 1, 1, 1], -2)]


@pytest.mark.parametrize(("mask", "label"), [*BAD_PARTS, ([-1, 0, 1, 2], -1), ([1, 0, 2, 2], -1)])
def test_parts_that_are_not_numbered_are_refused(mask: list[int], label: int) -> None:
    fields = {name: np.zeros(width, np.int64) for name, width in field_widths(RecordShape(6, 2)).items()}
    fields["input_mask"][: len(mask)] = mask
    with pytest.raises(ValueError, match=r"input_mask|next_sentence_labels"):
        unpad_record(fields, 0, label)
