"""A shard's index: correct, stored, and made again only when the shard changes."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from bert_large.data import index
from bert_large.data.dataset import Dataset
from bert_large.data.formats import hdf5
from bert_large.data.formats.tfrecord import encode_record, iterate_payloads, write_records
from bert_large.data.index import build_indexes, load_index, scan_shard
from bert_large.data.record import RecordLimits, RecordShape
from bert_large.errors import DataError

from tests.support.crash import crash_on_b
from tests.support.records import PHASE_1_SHAPE, make_records, write_hdf5_shard, write_shard

RECORDS = make_records(30)


def build(paths: list[Path], folder: Path) -> list[tuple[int, int]]:
    """Build indexes and return the calls about progress."""
    calls: list[tuple[int, int]] = []
    build_indexes(paths, folder, lambda done, total: calls.append((done, total)))
    return calls


@pytest.mark.parametrize("suffix", ["", ".hdf5"])
def test_scan_finds_offsets_and_lengths(tmp_path: Path, suffix: str) -> None:
    """An offset is a byte in a TFRecord and a row in HDF5."""
    path = tmp_path / f"part-0{suffix}"
    (write_hdf5_shard if suffix else write_shard)(path, RECORDS)
    shard = scan_shard(path)
    assert shard.shape == PHASE_1_SHAPE
    assert shard.lengths.tolist() == [len(record.input_ids) for record in RECORDS]
    assert shard.offsets.tolist() == (list(range(30)) if suffix else [offset for offset, _ in iterate_payloads(path)])


@pytest.mark.parametrize("rows", [6, 7])
def test_hdf5_is_scanned_in_blocks(tmp_path: Path, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """No row is left out or read twice at the border of two blocks, or at the end."""
    monkeypatch.setattr(hdf5, "_SCAN_ROWS", 3)
    shard = scan_shard(write_hdf5_shard(tmp_path / "part-0.hdf5", RECORDS[:rows]))
    assert shard.offsets.tolist() == list(range(rows))
    assert shard.lengths.tolist() == [len(record.input_ids) for record in RECORDS[:rows]]


@pytest.mark.parametrize("field", ["input_ids", "masked_ids"])
@pytest.mark.parametrize("suffix", ["", ".hdf5"])
def test_token_ids_must_be_in_the_vocabulary(tmp_path: Path, field: str, suffix: str) -> None:
    """A larger id would crash in the middle of training, as an input or as a label."""
    records = make_records(3)
    getattr(records[1], field)[0] = 4000
    path = (write_hdf5_shard if suffix else write_shard)(tmp_path / f"shard{suffix}", records)
    assert len(scan_shard(path, RecordLimits(4001, 40)).offsets) == 3
    name, place = {"masked_ids": "masked_lm_ids"}.get(field, field), "row 1" if suffix else r"record 1 at byte \d+"
    with pytest.raises(DataError, match=rf"{path}: {place}: {name} .*4000"):
        scan_shard(path, RecordLimits(4000, 40))


def test_records_must_fit_the_models_positions(tmp_path: Path) -> None:
    longest = max(len(record.input_ids) for record in RECORDS)
    path = write_shard(tmp_path / "shard", RECORDS)
    assert len(scan_shard(path, RecordLimits(100, longest)).offsets) == 30
    expected = rf"shard: record \d+ at byte \d+: {longest} .* {longest - 1} "
    with pytest.raises(DataError, match=expected):
        scan_shard(path, RecordLimits(100, longest - 1))


def test_an_index_is_reused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next run does not read the shards again."""
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


def test_several_shards_are_indexed_in_parallel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each index is that of its own shard, in whatever order they are completed."""
    monkeypatch.setattr(index, "_BYTES_PER_PROCESS", 1)
    paths = [write_shard(tmp_path / f"part-{number}", RECORDS[: 5 + number]) for number in range(3)]
    assert build(paths, tmp_path / "index") == [(1, 3), (2, 3), (3, 3)]
    assert [len(load_index(path, tmp_path / "index").offsets) for path in paths] == [5, 6, 7]


def test_damage_in_one_of_several_shards_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error of a scanning process reaches the caller unchanged, and the damaged shard gets no index."""
    monkeypatch.setattr(index, "_BYTES_PER_PROCESS", 1)
    paths = [write_shard(tmp_path / f"part-{number}", RECORDS) for number in range(2)]
    paths[1].write_bytes(paths[1].read_bytes()[:-1])
    with pytest.raises(DataError, match=r"part-1: record 29 at byte \d+: "):
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
    with pytest.raises(DataError, match=r"record 2 at byte \d+: .*=64.*=128"):
        scan_shard(path)


@pytest.mark.parametrize("suffix", ["", ".hdf5"])
def test_an_empty_shard_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"part-0{suffix}"
    (write_hdf5_shard if suffix else write_shard)(path, [])
    with pytest.raises(DataError, match=r"part-0.*: .*empty"):
        scan_shard(path)


def test_a_name_of_any_bytes(tmp_path: Path) -> None:
    """File systems allow line breaks and bytes that are not UTF-8."""
    for name in (b"part\xff", b"-part\n0"):
        path = write_shard(tmp_path / "data" / os.fsdecode(name), RECORDS[:3])
        build([path], tmp_path / "index")
        assert len(load_index(path, tmp_path / "index").offsets) == 3
    dataset = Dataset.open(tmp_path / "data", tmp_path / "index", build=False)
    assert len(dataset) == 6 and len(dataset.fingerprint()) == 16


@pytest.mark.parametrize("letter", ["x", "é", "漢"])
def test_a_name_of_the_greatest_length(tmp_path: Path, letter: str) -> None:
    """Names are limited to 255 bytes; the index files, and their temporary files, stay below that."""
    name = letter * (255 // len(letter.encode()))
    path = write_shard(tmp_path / "data" / name, RECORDS[:3])
    build([path], tmp_path / "index")
    assert len(load_index(path, tmp_path / "index").offsets) == 3


def test_long_names_that_begin_alike_have_their_own_indexes(tmp_path: Path) -> None:
    paths = [write_shard(tmp_path / "data" / ("x" * 200 + str(number)), RECORDS[: 3 + number]) for number in range(2)]
    build(paths, tmp_path / "index")
    assert [len(load_index(path, tmp_path / "index").offsets) for path in paths] == [3, 4]


@pytest.mark.parametrize("kind", [".json", ".offsets", ".lengths", ".checksums"])
@pytest.mark.parametrize("how", ["cut", "emptied", "removed"])
def test_a_damaged_index_is_made_again(tmp_path: Path, kind: str, how: str) -> None:
    path = tmp_path / "part-0"
    starts = scan_shard(write_shard(path, RECORDS)).offsets.tolist()
    build([path], tmp_path / "index")
    (kept,) = (tmp_path / "index").glob(f"*{kind}")
    if how == "removed":
        kept.unlink()
    else:
        kept.write_bytes(kept.read_bytes()[: -3 if how == "cut" else 0])
    build([path], tmp_path / "index")
    assert load_index(path, tmp_path / "index").offsets.tolist() == starts


def test_a_shard_that_crashes_its_reader_is_named(tmp_path: Path) -> None:
    """The HDF5 library is written in C: on a damaged file it can crash the process."""
    paths = [tmp_path / name for name in "ba"]
    with pytest.raises(DataError, match=rf"^{paths[0]}: the process that checked its records died"):
        list(index._make_in_processes(paths, crash_on_b, 2))
