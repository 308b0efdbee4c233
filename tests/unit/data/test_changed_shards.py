"""Shards that change or vanish while they are indexed, between two ranks, or while they are read."""

from __future__ import annotations

from pathlib import Path

import h5py
import pytest
from bert_large.data import index as index_module
from bert_large.data.dataset import Dataset
from bert_large.data.index import build_indexes, load_index, scan_shard
from bert_large.data.record import BadRecords, RecordShape
from bert_large.errors import DataError

from tests.support.records import assert_same_record, make_records, write_hdf5_shard, write_shard

SHAPE = RecordShape(16, 4)
RECORDS = make_records(6, lengths=(5, 16))


def open_folder(tmp_path: Path) -> Dataset:
    return Dataset.open(tmp_path / "data", tmp_path / "index", build=True)


def test_a_record_replaced_after_indexing_is_bad(tmp_path: Path) -> None:
    """Its frame is intact and its checksum right, but it is another record; also in HDF5, which has no checksums."""
    path, rows = tmp_path / "data" / "part-0", tmp_path / "data" / "rows.hdf5"
    write_shard(path, RECORDS, SHAPE)
    write_hdf5_shard(rows, RECORDS, SHAPE)
    dataset = open_folder(tmp_path)
    write_shard(path, [RECORDS[1], RECORDS[0], *RECORDS[2:]], SHAPE)
    with h5py.File(rows, "r+") as file:
        file["input_ids"][4, 0] += 1
    with pytest.raises(DataError, match=r"part-0: record 0 at byte 0: it changed since it was indexed, from checks"):
        dataset.read(0)
    with pytest.raises(DataError, match=r"rows.hdf5: row 4: it changed since it was indexed, from checksum 0x"):
        dataset.read(6 + 4)
    assert_same_record(dataset.read(6 + 4, BadRecords(1)), RECORDS[5])


@pytest.mark.parametrize("suffix", ["", ".hdf5"])
def test_a_shard_that_shrinks_or_vanishes(tmp_path: Path, suffix: str) -> None:
    """After indexing: the error names the shard, which cannot be skipped as a bad record can."""
    path = tmp_path / "data" / f"part-0{suffix}"
    (write_hdf5_shard if suffix else write_shard)(path, RECORDS, SHAPE)
    dataset = open_folder(tmp_path)
    (write_hdf5_shard if suffix else write_shard)(path, RECORDS[:1], SHAPE)
    with pytest.raises(DataError, match=rf"^{path}: .*"):
        dataset.read(5)
    dataset.close()
    path.unlink()
    for bad in (None, BadRecords(9)):
        with pytest.raises(DataError, match=rf"^{path} cannot be opened: No such file"):
            dataset.read(1, bad)


def test_a_shard_that_changes_between_the_ranks(tmp_path: Path) -> None:
    """One rank has indexed it, another one opens it: the index of the earlier content is refused."""
    path = tmp_path / "data" / "part-0"
    write_shard(path, RECORDS, SHAPE)
    open_folder(tmp_path)
    write_shard(path, RECORDS[:5], SHAPE)
    with pytest.raises(DataError, match=rf"^{path} changed after its records were checked"):
        Dataset.open(tmp_path / "data", tmp_path / "index", build=False)
    path.unlink()
    (tmp_path / "data" / "other").write_bytes(b"x")
    with pytest.raises(DataError, match=rf"^{path} cannot be opened: No such file"):
        load_index(path, tmp_path / "index")


def test_a_shard_that_grows_while_it_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "part-0"
    write_shard(path, RECORDS, SHAPE)

    def scan_and_append(*arguments: object) -> object:
        found = scan_shard(*arguments)  # type: ignore[arg-type]
        with path.open("ab") as file:
            file.write(b"more")
        return found

    monkeypatch.setattr(index_module, "scan_shard", scan_and_append)
    with pytest.raises(DataError, match=rf"^{path} changed while its records were checked"):
        build_indexes([path], tmp_path / "index", lambda done, total: None)
