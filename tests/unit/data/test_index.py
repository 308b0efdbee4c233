"""A shard's index: right, kept, and made again only when the shard changes."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from bert_large.data import index
from bert_large.data.dataset import Dataset
from bert_large.data.index import build_indexes, list_shards, load_index, scan_shard
from bert_large.data.record import RecordLimits, RecordShape
from bert_large.data.tfrecord import encode_record, iterate_payloads, write_records
from bert_large.errors import DataError, InputError

from tests.support.records import PHASE_1_SHAPE, make_records, write_hdf5_shard, write_shard

RECORDS = make_records(30)


def build(paths: list[Path], folder: Path) -> list[tuple[int, int]]:
    """Build indexes and return the calls about progress."""
    calls: list[tuple[int, int]] = []
    build_indexes(paths, folder, lambda done, total: calls.append((done, total)))
    return calls


@pytest.mark.parametrize("suffix", ["", ".hdf5"])
def test_scan_finds_offsets_lengths_and_the_largest_id(tmp_path: Path, suffix: str) -> None:
    """In both formats; an offset is a byte in a TFRecord and a row in HDF5."""
    path = tmp_path / f"part-0{suffix}"
    (write_hdf5_shard if suffix else write_shard)(path, RECORDS)
    shard = scan_shard(path)
    assert shard.shape == PHASE_1_SHAPE
    assert shard.lengths.tolist() == [len(record.input_ids) for record in RECORDS]
    assert shard.offsets.tolist() == (list(range(30)) if suffix else [offset for offset, _ in iterate_payloads(path)])


@pytest.mark.parametrize("rows", [6, 7])
def test_hdf5_is_scanned_in_blocks(tmp_path: Path, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """No row is left out or taken twice where one block ends and the next begins, or at the end."""
    monkeypatch.setattr(index, "_HDF5_ROWS", 3)
    shard = scan_shard(write_hdf5_shard(tmp_path / "part-0.hdf5", RECORDS[:rows]))
    assert shard.offsets.tolist() == list(range(rows))
    assert shard.lengths.tolist() == [len(record.input_ids) for record in RECORDS[:rows]]


@pytest.mark.parametrize("field", ["input_ids", "masked_ids"])
@pytest.mark.parametrize("suffix", ["", ".hdf5"])
def test_ids_must_be_of_the_vocabulary(tmp_path: Path, field: str, suffix: str) -> None:
    """One beyond it would crash in the middle of training, wherever it stands."""
    records = make_records(3)
    getattr(records[1], field)[0] = 4000
    path = (write_hdf5_shard if suffix else write_shard)(tmp_path / f"shard{suffix}", records)
    assert len(scan_shard(path, RecordLimits(4001, 40)).offsets) == 3
    name, place = {"masked_ids": "masked_lm_ids"}.get(field, field), "row 1" if suffix else r"record 1 at byte \d+"
    with pytest.raises(DataError, match=rf"{path}: {place}: {name} has token id 4000, the model's vocabulary has 4000"):
        scan_shard(path, RecordLimits(4000, 40))


def test_records_must_fit_the_models_positions(tmp_path: Path) -> None:
    longest = max(len(record.input_ids) for record in RECORDS)
    path = write_shard(tmp_path / "shard", RECORDS)
    assert len(scan_shard(path, RecordLimits(100, longest)).offsets) == 30
    expected = rf"shard: record \d+ at byte \d+: {longest} tokens, .* {longest - 1} positions"
    with pytest.raises(DataError, match=expected):
        scan_shard(path, RecordLimits(100, longest - 1))


def test_index_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second start does not read the shards again."""
    paths = [write_shard(tmp_path / "data" / "part-0", RECORDS)]
    assert build(paths, tmp_path / "index") == [(1, 1)]
    monkeypatch.setattr(index, "scan_shard", lambda *_: pytest.fail("scanned again"))
    assert build(paths, tmp_path / "index") == []
    loaded, scanned = load_index(paths[0], tmp_path / "index"), scan_shard(paths[0])
    for name in ("path", "shape", "digest", "bad_records"):
        assert getattr(loaded, name) == getattr(scanned, name)
    for name in ("offsets", "lengths", "checksums"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(scanned, name))


@pytest.mark.parametrize("change", ["size", "time"])
def test_a_changed_shard_is_indexed_again(tmp_path: Path, change: str) -> None:
    path = write_shard(tmp_path / "part-0", RECORDS)
    stat = path.stat()
    build([path], tmp_path / "index")
    if change == "size":
        write_shard(path, RECORDS[:7])
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    else:
        write_shard(path, list(reversed(RECORDS)))
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert build([path], tmp_path / "index") == [(1, 1)]
    assert np.array_equal(load_index(path, tmp_path / "index").lengths, scan_shard(path).lengths)


def test_several_shards_are_indexed_in_parallel(tmp_path: Path) -> None:
    """The files' contents, not their order of completion, are what each index holds."""
    paths = [write_shard(tmp_path / f"part-{number}", RECORDS[: 5 + number]) for number in range(3)]
    assert build(paths, tmp_path / "index") == [(1, 3), (2, 3), (3, 3)]
    assert [len(load_index(path, tmp_path / "index").offsets) for path in paths] == [5, 6, 7]


def test_damage_in_one_of_several_shards_is_named(tmp_path: Path) -> None:
    """An error of a scanning process reaches the caller whole, and nothing is kept for the damaged shard."""
    paths = [write_shard(tmp_path / f"part-{number}", RECORDS) for number in range(2)]
    paths[1].write_bytes(paths[1].read_bytes()[:-1])
    with pytest.raises(DataError, match=r"part-1: record 29 at byte \d+: .*truncated"):
        build(paths, tmp_path / "index")
    assert not list((tmp_path / "index").glob("part-1*.json"))


def test_a_wrong_record_is_named_by_number_and_byte(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "part-0", RECORDS[:2])
    size = path.stat().st_size
    with path.open("ab") as file:
        write_records(file, [b""])
    with pytest.raises(DataError) as caught:
        scan_shard(path)
    assert str(caught.value).startswith(f"{path}: record 2 at byte {size}: ")


def test_records_of_two_shapes_are_refused(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "part-0", RECORDS[:2])
    with path.open("ab") as file:
        write_records(file, [encode_record(RECORDS[2], RecordShape(64, 20))])
    with pytest.raises(DataError, match=r"record 2 at byte \d+: it has .*=64.*before it .*max_seq_length=128"):
        scan_shard(path)


@pytest.mark.parametrize("suffix", ["", ".hdf5"])
def test_an_empty_shard_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"part-0{suffix}"
    (write_hdf5_shard if suffix else write_shard)(path, [])
    with pytest.raises(DataError, match=r"part-0.*: the shard is empty"):
        scan_shard(path)


def test_shards_are_the_visible_files_in_order_of_name(tmp_path: Path) -> None:
    for name in ("part-00010", "part-00002", "b.hdf5", ".hidden", "_SUCCESS", "README.md", "manifest.json", "x.md5"):
        (tmp_path / name).touch()
    (tmp_path / "folder").mkdir()
    assert [path.name for path in list_shards(tmp_path)] == ["b.hdf5", "part-00002", "part-00010"]


def test_no_shards_are_refused(tmp_path: Path) -> None:
    (tmp_path / "README.md").touch()
    with pytest.raises(InputError, match=r"holds no shards; expected TFRecord or HDF5 files"):
        list_shards(tmp_path)
    with pytest.raises(InputError, match="does not exist or is no folder"):
        list_shards(tmp_path / "README.md")


def test_a_name_of_any_bytes(tmp_path: Path) -> None:
    """Line breaks and what is no UTF-8: file systems have it."""
    for name in (b"part\xff", b"-part\n0"):
        path = write_shard(tmp_path / "data" / os.fsdecode(name), RECORDS[:3])
        build([path], tmp_path / "index")
        assert len(load_index(path, tmp_path / "index").offsets) == 3
    dataset = Dataset.open(tmp_path / "data", tmp_path / "index", build=False)
    assert len(dataset) == 6 and len(dataset.fingerprint()) == 16
