"""A folder of shards as one numbered sequence of records."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from bert_large.data.dataset import Dataset, check_training_data
from bert_large.data.formats.tfrecord import write_records
from bert_large.data.record import RecordShape
from bert_large.errors import DataError, InputError

from tests.support.records import (
    PHASE_2_SHAPE,
    assert_same_record,
    make_records,
    write_folder,
    write_hdf5_shard,
    write_shard,
)

RECORDS = make_records(23)


def open_folder(folder: Path) -> Dataset:
    return Dataset.open(folder, folder.parent / f"{folder.name} index", build=True)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """23 records in three shards, the middle one HDF5."""
    folder = tmp_path / "data"
    write_shard(folder / "a", RECORDS[:10])
    write_hdf5_shard(folder / "b.hdf5", RECORDS[10:14])
    write_shard(folder / "c", RECORDS[14:])
    return open_folder(folder)


def test_records_are_numbered_in_file_order(dataset: Dataset) -> None:
    assert len(dataset) == 23
    for number in (22, 0, 9, 10, 13, 14):
        assert_same_record(dataset.read(number), RECORDS[number])
    for found, number in zip(dataset.read_all([14, 3, 3]), (14, 3, 3), strict=True):
        assert_same_record(found, RECORDS[number])


def test_lengths_come_from_the_index_for_any_numbers(dataset: Dataset) -> None:
    lengths = np.array([len(record.input_ids) for record in RECORDS])
    numbers = np.array([22, 0, 13, 14, 0, 10, 9])
    assert np.array_equal(dataset.lengths(numbers), lengths[numbers])
    assert dataset.total_tokens() == lengths.sum()


def test_a_dataset_is_pickled_without_its_open_files(dataset: Dataset) -> None:
    dataset.read_all(range(23))
    copy = pickle.loads(pickle.dumps(dataset))
    for number, expected in enumerate(RECORDS):
        assert_same_record(copy.read(number), expected)


def test_records_of_two_shapes_are_refused(tmp_path: Path) -> None:
    write_shard(tmp_path / "data" / "a", RECORDS[:3])
    write_shard(tmp_path / "data" / "b", RECORDS[3:6], RecordShape(512, 76))
    with pytest.raises(DataError, match=r"b holds .*=512.*a holds .*=128"):
        open_folder(tmp_path / "data")


def test_a_record_that_becomes_invalid_is_named(tmp_path: Path) -> None:
    """Its frame is intact, but its contents are not a record."""
    path = write_shard(tmp_path / "data" / "a", RECORDS[:2])
    dataset = open_folder(tmp_path / "data")
    with path.open("r+b") as file:
        file.seek(int(dataset.shards[0].offsets[1]))
        write_records(file, [b""])
    with pytest.raises(DataError, match=rf"a: record 1 at byte {dataset.shards[0].offsets[1]}: "):
        dataset.read(1)


def test_fingerprint_depends_on_the_data_and_not_on_its_location(dataset: Dataset, tmp_path: Path) -> None:
    """A copy elsewhere, with other times, is the same data; another record order or shard name is not."""
    shutil.copytree(tmp_path / "data", tmp_path / "copy")
    os.utime(tmp_path / "copy" / "a", (1, 1))
    assert open_folder(tmp_path / "copy").fingerprint() == dataset.fingerprint()
    write_shard(tmp_path / "copy" / "c", list(reversed(RECORDS[14:])))
    assert open_folder(tmp_path / "copy").fingerprint() != dataset.fingerprint()
    (tmp_path / "data" / "c").rename(tmp_path / "data" / "d")
    assert open_folder(tmp_path / "data").fingerprint() != dataset.fingerprint()


def test_the_sequence_length_must_be_the_phases(tmp_path: Path) -> None:
    """The error names the phase or setting that the records fit."""
    short = open_folder(write_folder(tmp_path / "short", RECORDS))
    check_training_data(short, max_seq_length=128, phase=1)
    with pytest.raises(InputError, match=r"128 .*512.* phase 1"):
        check_training_data(short, max_seq_length=512, phase=2)
    long = open_folder(write_folder(tmp_path / "long", RECORDS, shape=PHASE_2_SHAPE))
    with pytest.raises(InputError, match=r"512 .*128.* phase 2"):
        check_training_data(long, max_seq_length=128, phase=1)
    odd = open_folder(write_folder(tmp_path / "odd", RECORDS, shape=RecordShape(64, 20)))
    with pytest.raises(InputError, match=r"64 .*128.* --max-seq-length 64"):
        check_training_data(odd, max_seq_length=128, phase=1)


def test_more_shards_than_files_may_be_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bert_large.data.dataset.MAX_OPEN_FILES", 2)
    for number, record in enumerate(RECORDS[:6]):
        suffix = ".hdf5" if number % 2 else ""
        (write_hdf5_shard if suffix else write_shard)(tmp_path / "data" / f"part-{number}{suffix}", [record])
    dataset = open_folder(tmp_path / "data")
    for _ in range(2):
        for found, expected in zip(dataset.read_all(range(6)), RECORDS, strict=False):
            assert_same_record(found, expected)
        assert len(dataset._open_shards) == 2
