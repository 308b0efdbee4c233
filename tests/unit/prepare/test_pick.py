from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bert_large.data.formats.tfrecord import encode_record, iterate_payloads, write_records
from bert_large.data.record import Record, RecordShape
from bert_large.errors import DataError, InputError
from bert_large.prepare.pick import pick_records, picked_indices


def write_numbered(path: Path, numbers: range, slots: int = 8) -> Path:
    """Write records that hold their number."""
    payloads = []
    for number in numbers:
        ids = np.array([number], np.int32)
        payloads.append(
            encode_record(Record(ids, ids.astype(np.uint8) * 0, ids[:0], ids[:0], 0), RecordShape(slots, 2))
        )
    with path.open("wb") as file:
        write_records(file, payloads)
    return path


def test_indices() -> None:
    assert picked_indices(10, 10) == list(range(10))
    assert picked_indices(10, 4) == [0, 2, 5, 7]
    assert picked_indices(587, 1) == [0]
    assert picked_indices(30, 22)[11] == 14  # 30 / 22 is rounded: exactly it would be 15


def test_picks_are_whole_records_across_files(tmp_path: Path) -> None:
    files = [
        write_numbered(tmp_path / "a", range(3)),
        write_numbered(tmp_path / "b", range(0)),
        write_numbered(tmp_path / "c", range(3, 10)),
    ]
    everything = [payload for path in files for _, payload in iterate_payloads(path)]
    assert pick_records(files, tmp_path / "out", 4) == (4, 10)
    picked = [payload for _, payload in iterate_payloads(tmp_path / "out")]
    assert picked == [everything[index] for index in (0, 2, 5, 7)]
    pick_records(files, tmp_path / "out", 10)
    assert [payload for _, payload in iterate_payloads(tmp_path / "out")] == everything


def test_count_must_be_there(tmp_path: Path) -> None:
    files = [write_numbered(tmp_path / "a", range(3))]
    with pytest.raises(InputError, match="--count is 4, but the 1 input files have 3 records"):
        pick_records(files, tmp_path / "out", 4)
    with pytest.raises(InputError, match="--count is 0"):
        pick_records(files, tmp_path / "out", 0)
    assert not (tmp_path / "out").exists()


def test_fewer_are_all_of_them_if_allowed(tmp_path: Path) -> None:
    files = [write_numbered(tmp_path / "a", range(3))]
    assert pick_records(files, tmp_path / "out", 10, allow_fewer=True) == (3, 3)
    assert (tmp_path / "out").read_bytes() == files[0].read_bytes()
    assert pick_records(files, tmp_path / "out", 2, allow_fewer=True) == (2, 3)
    (tmp_path / "none").touch()
    with pytest.raises(InputError, match="have 0 records"):
        pick_records([tmp_path / "none"], tmp_path / "out", 1, allow_fewer=True)


def test_records_of_two_shapes_are_refused(tmp_path: Path) -> None:
    files = [write_numbered(tmp_path / "a", range(2)), write_numbered(tmp_path / "b", range(2), slots=9)]
    with pytest.raises(DataError, match=r"b: byte 0: found .*max_seq_length=9.*, expected .*=8.* as in .*a"):
        pick_records(files, tmp_path / "out", 4)
    assert not (tmp_path / "out").exists()


def test_files_that_are_not_records_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("a file of text, not of records")
    with pytest.raises(DataError, match=r"text: record 0 at byte 0"):
        pick_records([tmp_path / "text"], tmp_path / "out", 1)
    with (tmp_path / "other").open("wb") as file:
        write_records(file, [b""])
    with pytest.raises(DataError, match=r"other: byte 0: feature input_ids is missing"):
        pick_records([tmp_path / "other"], tmp_path / "out", 1)
