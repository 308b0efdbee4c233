"""`bert-large pick`: evenly spaced records of shards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bert_large import cli
from bert_large.data.formats.tfrecord import encode_record, iterate_payloads, write_records
from bert_large.data.record import Record, RecordShape
from bert_large.errors import DataError, InputError
from bert_large.prepare.pick import pick_records, picked_indices

from tests.support.runs import options, run_here

from .preparing import Prepare


@pytest.fixture
def records(tmp_path: Path) -> Path:
    (tmp_path / "records").mkdir()
    return tmp_path / "records"


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


def payloads(path: Path) -> list[bytes]:
    return [payload for _, payload in iterate_payloads(path)]


def test_indices() -> None:
    assert picked_indices(10, 10) == list(range(10))
    assert picked_indices(10, 4) == [0, 2, 5, 7]
    assert picked_indices(587, 1) == [0]
    assert picked_indices(30, 22)[11] == 14  # 30 / 22 is rounded: exactly it would be 15


def test_picks_are_whole_records_across_files(tmp_path: Path, records: Path) -> None:
    files = [
        write_numbered(records / "a", range(3)),
        write_numbered(records / "b", range(0)),
        write_numbered(records / "c", range(3, 10)),
    ]
    everything = [payload for path in files for payload in payloads(path)]
    assert "wrote 4 of 10 records" in pick_records(records, tmp_path / "new" / "out", 4)
    assert payloads(tmp_path / "new" / "out") == [everything[index] for index in (0, 2, 5, 7)]
    with pytest.raises(InputError, match="--overwrite"):
        pick_records(records, tmp_path / "new" / "out", 10)
    pick_records(records, tmp_path / "new" / "out", 10, overwrite=True)
    assert payloads(tmp_path / "new" / "out") == everything


def test_the_count_must_be_there_unless_fewer_are_allowed(
    tmp_path: Path, records: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, output = write_numbered(records / "a", range(3)), tmp_path / "new" / "out"
    with pytest.raises(InputError, match=r"--count is 4, .* 3 records"):
        pick_records(records, output, 4)
    assert run_here("pick", *options(input_dir=records, output_file=output, count=0)) == 2
    assert "--count is 0" in capsys.readouterr().err
    assert not output.parent.exists()
    assert "wrote 3 of 3 records" in pick_records(records, output, 10, allow_fewer=True)
    assert output.read_bytes() == path.read_bytes()
    assert "wrote 2 of 3" in pick_records(records, output, 2, allow_fewer=True, overwrite=True)
    path.write_bytes(b"")
    with pytest.raises(InputError, match="0 records"):
        pick_records(records, output, 1, allow_fewer=True, overwrite=True)
    assert len(payloads(output)) == 2


def test_records_of_different_shapes_are_refused(tmp_path: Path, records: Path) -> None:
    write_numbered(records / "a", range(2))
    write_numbered(records / "b", range(2), slots=9)
    with pytest.raises(DataError, match=r"/b: byte 0: .*max_seq_length=9.*=8.*/a"):
        pick_records(records, tmp_path / "out", 4)
    assert not (tmp_path / "out").exists()


def test_only_shards_are_read(tmp_path: Path, records: Path) -> None:
    """MLCommons' folders have checksums and notes beside the shards."""
    path = write_numbered(records / "part-0", range(3))
    for name in ("part-0.md5", "README.md", "_SUCCESS", ".hidden", "manifest.json"):
        (records / name).write_text("not records")
    pick_records(records, tmp_path / "out", 3)
    assert (tmp_path / "out").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("name", ["_eval", "eval.txt", "eval.hdf5"])
def test_the_output_must_have_the_name_of_a_shard(
    tmp_path: Path, records: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_numbered(records / "part-0", range(3))
    assert run_here("pick", *options(input_dir=records, output_file=tmp_path / name, count=1)) == 2
    assert f"{tmp_path / name} " in capsys.readouterr().err
    assert not (tmp_path / name).exists()


def test_files_that_are_not_records_are_refused(tmp_path: Path, records: Path) -> None:
    (records / "text").write_text("a file of text, not of records")
    with pytest.raises(DataError, match=r"/text: record 0 at byte 0"):
        pick_records(records, tmp_path / "out", 1)
    with (records / "text").open("wb") as file:
        write_records(file, [b""])
    with pytest.raises(DataError, match=r"/text: byte 0: .*input_ids"):
        pick_records(records, tmp_path / "out", 1)


def test_the_command(prepare: Prepare, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prepare() == 0
    count = sum(len(payloads(out / f"part-{number}")) for number in range(3))
    command = ["pick", f"--input-dir={out}", f"--output-file={tmp_path / 'eval' / 'eval_5'}"]
    assert cli.main([*command, "--count=5"]) == 0
    assert f"wrote 5 of {count} records" in capsys.readouterr().out
    assert cli.main([*command, "--count=5"]) == 2
    assert cli.main([*command, "--overwrite"]) == 2
    assert f"--count is 10000, but the 3 files of {out} have" in capsys.readouterr().err
    assert cli.main([*command, "--overwrite", "--allow-fewer"]) == 0
    assert f"wrote {count} of {count} records" in capsys.readouterr().out
