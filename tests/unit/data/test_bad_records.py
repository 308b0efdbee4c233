"""Damaged shards: damage is one error that names the place, or is skipped without moving other samples."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from bert_large.data.dataset import Dataset
from bert_large.data.formats import tfrecord
from bert_large.data.formats.tfrecord import HEADER_BYTES, encode_record, write_records
from bert_large.data.index import scan_shard
from bert_large.data.loader import StepBatches, iterate_steps
from bert_large.data.order import BatchSizes, SampleOrder
from bert_large.data.record import BadRecords, RecordLimits, RecordShape
from bert_large.errors import DataError

from tests.support.records import make_records, write_hdf5_shard, write_shard

SHAPE = RecordShape(16, 4)
RECORDS = make_records(6, lengths=(5, 16))


def write(path: Path) -> list[int]:
    """Write the six records as a shard and return where each frame begins, and the end."""
    write_shard(path, RECORDS, SHAPE)
    return [*scan_shard(path).offsets.tolist(), path.stat().st_size]


def flip(path: Path, byte: int) -> None:
    """Flip a bit of a file as a failing disk does: without changing the file's times."""
    stat = path.stat()
    with path.open("r+b") as file:
        file.seek(byte)
        old = file.read(1)[0]
        file.seek(byte)
        file.write(bytes([old ^ 0x10]))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def open_folder(folder: Path, max_bad_records: int = 0) -> Dataset:
    return Dataset.open(folder, folder.parent / "index", build=True, max_bad_records=max_bad_records)


def contents_of(dataset: Dataset, bad: BadRecords | None = None) -> list[list[int]]:
    return [record.input_ids.tolist() for record in dataset.read_all(range(len(dataset)), bad)]


IDS = [record.input_ids.tolist() for record in RECORDS]


def test_a_bit_flipped_at_any_byte(tmp_path: Path) -> None:
    """The error names file, record and byte. If one bad record is allowed, the next record takes its place."""
    path = tmp_path / "part-0"
    starts = write(path)
    good = path.read_bytes()
    for byte in range(starts[2], starts[3]):
        path.write_bytes(good[:byte] + bytes([good[byte] ^ 0x10]) + good[byte + 1 :])
        with pytest.raises(DataError, match=rf"^{path}: record 2 at byte {starts[2]}: \S"):
            scan_shard(path)
        found = scan_shard(path, max_bad_records=1)
        assert found.offsets.tolist() == [*starts[:2], starts[3], *starts[3:6]], byte
        (message,) = found.bad_records
        assert message.startswith(f"{path}: record 2 at byte {starts[2]}: ")


@pytest.mark.parametrize("cut", [0, 1, HEADER_BYTES - 1, HEADER_BYTES, HEADER_BYTES + 7, -1])
def test_a_shard_cut_short(tmp_path: Path, cut: int) -> None:
    """Inside its last frame: no record follows, so the first one takes its place. A cut between frames is invisible."""
    path = tmp_path / "part-0"
    starts = write(path)
    path.write_bytes(path.read_bytes()[: starts[6] - 1 if cut < 0 else starts[5] + cut])
    found = scan_shard(path, max_bad_records=1)
    assert found.offsets.tolist() == (starts[:5] if cut == 0 else [*starts[:5], 0])
    assert len(found.bad_records) == (cut != 0)
    if cut:
        with pytest.raises(DataError, match=rf"record 5 at byte {starts[5]}: .* truncated"):
            scan_shard(path)


def test_the_error_states_both_checksums(tmp_path: Path) -> None:
    """The checksum found in the file and the one computed from its bytes."""
    path = tmp_path / "part-0"
    starts = write(path)
    payload = path.read_bytes()[starts[1] + HEADER_BYTES : starts[2] - 4]
    flip(path, starts[2] - 1)
    right = tfrecord.masked_crc32c(payload)
    size, wrong = len(payload), right ^ 0x10000000
    expected = f"of a record of {size} bytes, {wrong:#010x} where its bytes give {right:#010x}; the file is damaged"
    with pytest.raises(DataError, match=expected):
        scan_shard(path)


@pytest.mark.parametrize("window", [64, 1 << 20])
def test_a_damaged_stretch_over_several_records(tmp_path: Path, window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It counts as one record; the next one is found at any place in the window that is searched at a time."""
    monkeypatch.setattr(tfrecord, "_WINDOW_BYTES", window)
    path = tmp_path / "part-0"
    starts = write(path)
    content = path.read_bytes()
    zeros, noise = bytes(starts[3] - starts[1]), bytes(np.random.default_rng(0).integers(0, 256, 999, np.uint8))
    path.write_bytes(content[: starts[1]] + zeros + noise + content[starts[3] :])
    found = scan_shard(path, max_bad_records=1)
    assert found.offsets.tolist() == [0, *[start + 999 for start in (starts[3], *starts[3:6])]]


def hdf5_with_a_damaged_chunk(path: Path) -> None:
    """Write the records two to a chunk; the middle one of `input_ids` is damaged."""
    write_hdf5_shard(path, RECORDS, SHAPE)
    with h5py.File(path, "r+") as file:
        ids = file["input_ids"][:]
        del file["input_ids"]
        dataset = file.create_dataset("input_ids", data=ids, chunks=(2, 16), compression="gzip")
        offset = dataset.id.get_chunk_info(1).byte_offset
    flip(path, offset + 9)


def test_a_damaged_hdf5_chunk(tmp_path: Path) -> None:
    path = tmp_path / "part-0.hdf5"
    hdf5_with_a_damaged_chunk(path)
    with pytest.raises(DataError, match=rf"^{path}: row 2: "):
        scan_shard(path)
    found = scan_shard(path, max_bad_records=2)
    assert found.offsets.tolist() == [0, 1, 4, 4, 4, 5]
    assert [re.match(rf"{path}: row (\d)", text)[1] for text in found.bad_records] == ["2", "3"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"none", "not a tf.train.Example"),
        (
            encode_record(RECORDS[3], RecordShape(17, 4)),
            "it has RecordShape(max_seq_length=17, max_predictions=4), the records before it",
        ),
        (
            encode_record(replace(RECORDS[3], masked_ids=np.full_like(RECORDS[3].masked_ids, 100)), SHAPE),
            "masked_lm_ids has token id 100, the model's vocabulary has 100",
        ),
    ],
)
def test_the_next_record_takes_the_place(tmp_path: Path, payload: bytes, message: str) -> None:
    """The others keep their numbers, and so their places in the order, also when the index is read again."""
    (tmp_path / "data").mkdir()
    path = tmp_path / "data" / "part-0"
    payloads = [encode_record(record, SHAPE) for record in RECORDS]
    with path.open("wb") as file:
        write_records(file, [*payloads[:3], payload, *payloads[4:]])
    limits = RecordLimits(100, 16)
    for build in (True, False):
        dataset = Dataset.open(path.parent, tmp_path / "index", build=build, limits=limits, max_bad_records=1)
        assert contents_of(dataset) == [*IDS[:3], IDS[4], *IDS[4:]]
        (text,) = dataset.count_bad_records(1).found
        assert text.startswith(f"{path}: record 3 at byte ") and message in text
    with pytest.raises(DataError, match=re.escape(message)):
        Dataset.open(path.parent, tmp_path / "index", build=True, limits=limits)


def test_bad_records_of_all_shards_are_counted(tmp_path: Path) -> None:
    """Two in each of two shards: allowed if four are, too many if three are, although no single shard has so many."""
    for name in ("a", "b"):
        (tmp_path / "data").mkdir(exist_ok=True)
        starts = write(tmp_path / "data" / name)
        for number in (1, 4):
            flip(tmp_path / "data" / name, starts[number])
    assert len(open_folder(tmp_path / "data", 4).count_bad_records(4).found) == 4
    for most, name in ((3, "b"), (1, "a")):
        expected = rf"{name}: record 4 at byte .*; with it more than --max-bad-records {most} records are bad"
        with pytest.raises(DataError, match=expected):
            Dataset.open(tmp_path / "data", tmp_path / f"index {most}", build=True, max_bad_records=most)


@pytest.mark.parametrize("content", [b"", b"Some article.\n" * 9, bytes(4000)])
@pytest.mark.parametrize("suffix", ["", ".hdf5"])
def test_a_shard_without_a_good_record_cannot_be_skipped(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"part-0{suffix}"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"^{path}: .*"):
        scan_shard(path, max_bad_records=10)


def test_damage_after_indexing(tmp_path: Path) -> None:
    """Reading skips the same records as indexing would have; a bad record counts once."""
    (tmp_path / "data").mkdir()
    path = tmp_path / "data" / "part-0"
    starts = write(path)
    dataset = open_folder(tmp_path / "data")
    flip(path, starts[2] + HEADER_BYTES + 3)
    flip(path, starts[5])
    with pytest.raises(DataError, match=rf"^{path}: record 2 at byte {starts[2]}: wrong checksum"):
        dataset.read(2)
    bad = BadRecords(2)
    for _ in range(2):
        assert contents_of(dataset, bad) == [*IDS[:2], IDS[3], *IDS[3:5], IDS[0]]
    assert len(bad.found) == 2
    scanned = Dataset.open(path.parent, tmp_path / "new", build=True, max_bad_records=2)
    assert contents_of(scanned) == contents_of(dataset, bad)
    with pytest.raises(DataError, match=r"record 5 at byte .* more than --max-bad-records 1 "):
        contents_of(dataset, BadRecords(1))


@pytest.fixture
def damaged(tmp_path: Path) -> Iterator[Dataset]:
    """Two shards of 25 records, three of which were damaged after they were indexed."""
    (tmp_path / "data").mkdir()
    records = make_records(50, lengths=(5, 16))
    for number in range(2):
        write_shard(tmp_path / "data" / f"part-{number}", records[25 * number :][:25], SHAPE)
    dataset = open_folder(tmp_path / "data")
    for number in (3, 4, 40):
        shard, row = dataset.locate(number)
        flip(shard.path, int(shard.offsets[row]) + HEADER_BYTES)
    yield dataset
    dataset.close()


def steps_of(dataset: Dataset, rank: int, world_size: int, most: int) -> StepBatches:
    return StepBatches(dataset, SampleOrder(50, seed=5), BatchSizes(10), 60, rank, world_size, most)


@pytest.mark.parametrize("workers", [0, 1])
def test_skipped_records_are_reported_to_the_trainer(damaged: Dataset, workers: int) -> None:
    """Every bad record of the epoch, before the step that it belongs to is yielded."""
    reported: list[str] = []
    steps = iterate_steps(steps_of(damaged, 0, 1, 3), 0, 5, workers, reported.append)
    assert sum(batch.sequences for step in steps for batch in step) == 50
    assert {re.sub(": wrong checksum.*", "", text) for text in reported} == {
        f"{shard.path}: record {row} at byte {shard.offsets[row]}" for shard, row in map(damaged.locate, (3, 4, 40))
    }
    with pytest.raises(DataError, match="wrong checksum of a record"):
        list(iterate_steps(steps_of(damaged, 0, 1, 0), 0, 5, workers, reported.append))


def test_ranks_skip_the_same_records(damaged: Dataset) -> None:
    """Three ranks together have the samples of one."""

    def samples(rank: int, world_size: int) -> dict[int, list[int]]:
        found = {}
        for step in range(5):
            for batch in steps_of(damaged, rank, world_size, 3)[step]:
                for number, sample in enumerate(batch.samples.tolist()):
                    found[sample] = batch.input_ids[batch.cu_seqlens[number] : batch.cu_seqlens[number + 1]].tolist()
        return found

    one = samples(0, 1)
    assert samples(0, 3) | samples(1, 3) | samples(2, 3) == one and len(one) == 50


def test_a_replacement_is_named_by_its_own_number(tmp_path: Path) -> None:
    """Whether it replaces records before it, or at the end of the shard. As a bad record it counts once."""
    path = write_shard(tmp_path / "data" / "part-0", make_records(8))
    places = scan_shard(path).offsets.tolist()

    def damage(*records: int) -> None:
        for record in records:
            flip(path, places[record] + HEADER_BYTES + 5)

    damage(0, 3, 4, 7)
    dataset = Dataset.open(path.parent, tmp_path / "index", build=True, max_bad_records=9)
    assert [dataset.shards[0].number_of(row) for row in range(8)] == [1, 1, 2, 5, 5, 5, 6, 1]
    damage(1, 5)
    bad = BadRecords(9)
    for row in range(8):
        dataset.read(row, bad)
    assert [text.split(": ")[1] for text in bad.found] == [f"record {n} at byte {places[n]}" for n in (1, 5)]
