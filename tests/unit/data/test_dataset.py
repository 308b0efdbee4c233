"""A folder of shards as one numbered sequence of records."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from bert_large.data.dataset import (
    Dataset,
    check_training_data,
    find_eval_folder,
    find_training_folder,
)
from bert_large.data.record import RecordShape
from bert_large.data.tfrecord import write_records
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


def test_records_are_numbered_through_in_file_order(dataset: Dataset) -> None:
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


def test_goes_to_another_process_without_its_files(dataset: Dataset) -> None:
    dataset.read_all(range(23))
    copy = pickle.loads(pickle.dumps(dataset))
    for number, expected in enumerate(RECORDS):
        assert_same_record(copy.read(number), expected)


def test_records_of_two_shapes_are_refused(tmp_path: Path) -> None:
    write_shard(tmp_path / "data" / "a", RECORDS[:3])
    write_shard(tmp_path / "data" / "b", RECORDS[3:6], RecordShape(512, 76))
    with pytest.raises(DataError, match=r"b holds .*=512.*a holds .*=128.*one shape"):
        open_folder(tmp_path / "data")


def test_a_record_that_changes_during_a_run_is_refused(tmp_path: Path) -> None:
    """A shard swapped under a run would train on other samples than the run's order names."""
    records = make_records(2, lengths=(10, 10)), make_records(2, lengths=(11, 11))
    path = write_shard(tmp_path / "data" / "a", records[0])
    dataset = open_folder(tmp_path / "data")
    write_shard(path, records[1])
    with pytest.raises(DataError, match=r"a: record 0 at byte 0: it changed since it was indexed, from checksum 0x"):
        dataset.read(0)


def test_a_record_that_is_none_any_more_is_named(tmp_path: Path) -> None:
    """Its framing is whole, its contents are no record."""
    path = write_shard(tmp_path / "data" / "a", RECORDS[:2])
    dataset = open_folder(tmp_path / "data")
    with path.open("r+b") as file:
        file.seek(int(dataset.shards[0].offsets[1]))
        write_records(file, [b""])
    with pytest.raises(DataError, match=rf"a: record 1 at byte {dataset.shards[0].offsets[1]}: it changed since"):
        dataset.read(1)


def test_a_shard_that_vanishes_during_a_run_is_named(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "data" / "a", RECORDS)
    dataset = open_folder(tmp_path / "data")
    path.unlink()
    with pytest.raises(DataError, match=r"a cannot be opened: No such file"):
        dataset.read(3)


def test_fingerprint_is_of_the_data_not_of_its_place(dataset: Dataset, tmp_path: Path) -> None:
    """A copy elsewhere, with other times, is the same data; another record order or shard name is not."""
    shutil.copytree(tmp_path / "data", tmp_path / "copy")
    os.utime(tmp_path / "copy" / "a", (1, 1))
    assert open_folder(tmp_path / "copy").fingerprint() == dataset.fingerprint()
    write_shard(tmp_path / "copy" / "c", list(reversed(RECORDS[14:])))
    assert open_folder(tmp_path / "copy").fingerprint() != dataset.fingerprint()
    (tmp_path / "data" / "c").rename(tmp_path / "data" / "d")
    assert open_folder(tmp_path / "data").fingerprint() != dataset.fingerprint()


@pytest.mark.parametrize(
    ("name", "length"),
    [("seq_128", 128), ("seq_512", 512), ("hdf5_seq_128", 128), ("2048_shards_uncompressed_512", 512)],
)
def test_known_sub_folders_are_found(tmp_path: Path, name: str, length: int) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / "README").touch()
    assert find_training_folder(tmp_path, length) == tmp_path / name


def test_a_folder_of_shards_is_taken_itself(tmp_path: Path) -> None:
    (tmp_path / "part-00000").touch()
    (tmp_path / "seq_512").mkdir()
    assert find_training_folder(tmp_path, 128) == tmp_path


def test_a_folder_without_data_is_refused(tmp_path: Path) -> None:
    (tmp_path / "seq_512").mkdir()
    (tmp_path / ".hidden").touch()
    with pytest.raises(InputError, match=r"holds no data for 128 tokens; expected seq_128 or"):
        find_training_folder(tmp_path, 128)
    with pytest.raises(InputError, match=r"DATASET_DIR .*nowhere does not exist"):
        find_training_folder(tmp_path / "nowhere", 128)


@pytest.mark.parametrize("name", ["eval", "eval_set_uncompressed"])
def test_eval_folder_is_found(tmp_path: Path, name: str) -> None:
    assert find_eval_folder(tmp_path) is None
    (tmp_path / name).mkdir()
    assert find_eval_folder(tmp_path) == tmp_path / name


def test_length_must_fit_the_phase(tmp_path: Path) -> None:
    """The message says what the records would fit."""
    short = open_folder(write_folder(tmp_path / "short", RECORDS))
    check_training_data(short, max_seq_length=128, phase=1)
    with pytest.raises(InputError, match=r"have 128 token slots, phase 2 expects 512; train them with phase 1"):
        check_training_data(short, max_seq_length=512, phase=2)
    long = open_folder(write_folder(tmp_path / "long", RECORDS, shape=PHASE_2_SHAPE))
    with pytest.raises(InputError, match=r"have 512 token slots, phase 1 expects 128; train them with phase 2"):
        check_training_data(long, max_seq_length=128, phase=1)
    odd = open_folder(write_folder(tmp_path / "odd", RECORDS, shape=RecordShape(64, 20)))
    with pytest.raises(InputError, match=r"have 64 token slots, phase 1 expects 128; give --max-seq-length 64"):
        check_training_data(odd, max_seq_length=128, phase=1)
