"""NVIDIA's HDF5 shards: rows become records; errors name the file, and the dataset or row."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from bert_large.data.formats import hdf5
from bert_large.data.formats.shard_format import RecordFacts, StoredRecord
from bert_large.data.record import RecordShape
from bert_large.errors import DataError

from tests.support.records import assert_same_record, make_records, write_hdf5_shard

RECORDS = make_records(5)


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    return write_hdf5_shard(tmp_path / "wiki_training_0.hdf5", RECORDS)


def read_all(path: Path) -> list[StoredRecord]:
    """Read every row on its own, and check that scanning the shard finds the same rows."""
    with contextlib.closing(hdf5.HDF5Shard(path)) as shard:
        scanned = list(shard.scan())
        assert [offset for offset, _ in scanned] == list(range(len(scanned)))
        read = [shard.read(row, row) for row in range(len(scanned))]
    assert [facts for _, facts in scanned] == [RecordFacts.of(stored) for stored in read]
    return read


def test_rows_are_records(shard: Path) -> None:
    found = read_all(shard)
    assert {stored.shape for stored in found} == {RecordShape(128, 20)}
    for stored, expected in zip(found, RECORDS, strict=True):
        assert_same_record(stored.record, expected)


def test_full_prediction_slots(tmp_path: Path) -> None:
    """Without a position 0, the list of predictions fills all its slots."""
    records = [record for record in make_records(40) if len(record.masked_ids) == 4]
    path = write_hdf5_shard(tmp_path / "a.hdf5", records, RecordShape(64, 4))
    assert_same_record(read_all(path)[0].record, records[0])


@pytest.mark.parametrize("block_rows", [2, 5, 1024])
def test_written_rows_read_as_they_were(tmp_path: Path, block_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """For numbers of records that are, and are not, a multiple of the block's rows."""
    monkeypatch.setattr(hdf5, "_BLOCK_ROWS", block_rows)
    hdf5.write_shard(tmp_path / "ours.hdf5", iter(RECORDS), len(RECORDS), RecordShape(128, 20))
    write_hdf5_shard(tmp_path / "plain.hdf5", RECORDS)
    with h5py.File(tmp_path / "ours.hdf5") as ours, h5py.File(tmp_path / "plain.hdf5") as plain:
        assert set(ours) == set(plain)
        for name in plain:
            assert (ours[name].dtype, ours[name].compression) == (plain[name].dtype, "gzip")
            np.testing.assert_array_equal(ours[name][:], plain[name][:], name)
    for found, expected in zip(read_all(tmp_path / "ours.hdf5"), RECORDS, strict=True):
        assert_same_record(found.record, expected)


def test_the_same_records_are_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.hdf5", "b.hdf5"):
        hdf5.write_shard(tmp_path / name, iter(RECORDS), len(RECORDS), RecordShape(128, 20))
    assert (tmp_path / "a.hdf5").read_bytes() == (tmp_path / "b.hdf5").read_bytes()


def replace(file: h5py.File, name: str, values: np.ndarray) -> None:
    del file[name]
    file.create_dataset(name, data=values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: file.pop("segment_ids"), "lacks the datasets segment_ids"),
        (lambda file: replace(file, "input_ids", np.zeros((5, 128), np.float32)), "input_ids is float32"),
        (lambda file: replace(file, "input_mask", np.zeros(5, np.int8)), "input_mask is int8 with 1 dimensions"),
        (lambda file: replace(file, "input_mask", np.zeros((4, 128), np.int8)), "input_mask has 4 rows"),
        (lambda file: replace(file, "masked_lm_ids", np.zeros((5, 19), np.int32)), "row widths differ"),
    ],
)
def test_wrong_datasets_are_named(shard: Path, change: Callable[[h5py.File], None], message: str) -> None:
    with h5py.File(shard, "r+") as file:
        change(file)
    with pytest.raises(DataError) as caught:
        hdf5.open_shard(shard)
    assert str(caught.value).startswith(f"{shard}: ") and message in str(caught.value)


def move_out(file: h5py.File, how: str) -> None:
    """Store the values of a dataset in another file, where they are right."""
    other = Path(file.filename).with_name("other")
    values = file["input_ids"][:]
    del file["input_ids"]
    if how == "external storage":
        values.tofile(other)
        file.create_dataset("input_ids", values.shape, values.dtype, external=[(other, 0, values.nbytes)])
        return
    with h5py.File(other, "w") as target:
        target["ids"] = values
    if how == "external link":
        file["input_ids"] = h5py.ExternalLink(other, "ids")
    elif how == "virtual":
        layout = h5py.VirtualLayout(values.shape, values.dtype)
        layout[:] = h5py.VirtualSource(other, "ids", values.shape)
        file.create_virtual_dataset("input_ids", layout)
    else:
        file["link"] = h5py.ExternalLink(other, "ids")
        file["input_ids"] = h5py.SoftLink("/link")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("external storage", "input_ids is stored in another file"),
        ("external link", "input_ids is a link"),
        ("soft link", "input_ids is a link"),
        ("virtual", "input_ids is virtual"),
    ],
)
def test_values_of_other_files_are_refused(shard: Path, how: str, message: str) -> None:
    """A shard from an unknown source must not make its reader read, for example, a private key."""
    with h5py.File(shard, "r+") as file:
        move_out(file, how)
    with h5py.File(shard) as file:
        np.testing.assert_array_equal(file["input_ids"].shape, (5, 128))  # HDF5 itself follows the link
    with pytest.raises(DataError, match=message):
        hdf5.open_shard(shard)


def test_rarely_used_filters_are_refused(shard: Path) -> None:
    with h5py.File(shard, "r+") as file:
        values = file["input_ids"][:]
        del file["input_ids"]
        file.create_dataset("input_ids", data=values, chunks=(5, 128), scaleoffset=0)
    with pytest.raises(DataError, match=r"input_ids is stored with HDF5's filters \[6\]"):
        hdf5.open_shard(shard)


@pytest.mark.parametrize("options", [{"compression": "lzf"}, {"shuffle": True, "fletcher32": True}])
def test_common_filters_are_read(shard: Path, options: dict[str, Any]) -> None:
    with h5py.File(shard, "r+") as file:
        values = file["input_ids"][:]
        del file["input_ids"]
        file.create_dataset("input_ids", data=values, **options)
    assert_same_record(read_all(shard)[0].record, RECORDS[0])


@pytest.mark.parametrize(
    ("name", "column", "value", "message"),
    [
        ("input_mask", 0, 0, "input_mask is not ones"),
        ("segment_ids", 0, 3, "segment_ids has values"),
        ("masked_lm_positions", 0, 127, "masked_lm_positions has 127"),
        ("input_ids", 0, -1, "input_ids has -1"),
        ("next_sentence_labels", None, 2, "next_sentence_labels is 2"),
    ],
)
def test_wrong_rows_are_named(shard: Path, name: str, column: int | None, value: int, message: str) -> None:
    with h5py.File(shard, "r+") as file:
        file[name][(3,) if column is None else (3, column)] = value
    with contextlib.closing(hdf5.HDF5Shard(shard)) as opened, pytest.raises(DataError) as caught:
        opened.read(3, 3)
    assert str(caught.value).startswith(f"{shard}: row 3: ") and message in str(caught.value)


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.hdf5"
    path.write_text("text")
    with pytest.raises(DataError, match=r"notes.hdf5: not a readable HDF5 file"):
        hdf5.open_shard(path)
