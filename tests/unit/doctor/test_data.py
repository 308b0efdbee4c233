"""Checks of data folders."""

from __future__ import annotations

from pathlib import Path

import pytest
from bert_large.doctor import data
from bert_large.doctor.data import check_data
from bert_large.doctor.finding import OK, PROBLEM, WARNING, Finding

from tests.support.records import PHASE_2_SHAPE, make_records, write_folder, write_hdf5_shard


def levels(findings: list[Finding]) -> dict[str, str]:
    return {finding.topic: finding.level for finding in findings}


def test_a_folder_of_both_phases(tmp_path: Path) -> None:
    write_folder(tmp_path / "seq_128", make_records(4), shards=2)
    write_folder(tmp_path / "seq_512", make_records(4), shape=PHASE_2_SHAPE)
    write_folder(tmp_path / "eval", make_records(4))
    findings = check_data(tmp_path, None)
    assert levels(findings) == {"data, phase 1": OK, "data, phase 2": OK, "data, evaluation": OK}
    assert "2 shards" in findings[0].found and "128 token" in findings[0].found and "20 pred" in findings[0].found


def test_one_phase_is_enough_unless_the_other_is_asked_for(tmp_path: Path) -> None:
    write_hdf5_shard(tmp_path / "hdf5_seq_128/part.hdf5", make_records(4))
    both = levels(check_data(tmp_path, None))
    assert both == {"data, phase 1": OK, "data, phase 2": WARNING, "data, evaluation": OK}
    assert levels(check_data(tmp_path, 2)) == {"data, phase 2": PROBLEM}


def test_shards_of_the_other_phase(tmp_path: Path) -> None:
    write_folder(tmp_path, make_records(4), shape=PHASE_2_SHAPE)
    (finding,) = check_data(tmp_path, 1)
    assert finding.level == PROBLEM and "512" in finding.found and "128" in finding.found


def test_what_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that does not exist, a damaged first record, an empty shard, shards that may not be read."""
    (missing,) = check_data(tmp_path / "none", 1)
    assert missing.level == PROBLEM and str(tmp_path / "none") in missing.found
    write_folder(tmp_path / "seq_128", make_records(4), shards=2)
    shard = tmp_path / "seq_128/part-00000-of-00002"
    content = bytearray(shard.read_bytes())
    content[100] ^= 1
    shard.write_bytes(content)
    (damaged,) = check_data(tmp_path, 1)
    assert damaged.level == PROBLEM and shard.name in damaged.found
    shard.write_bytes(b"")
    (empty,) = check_data(tmp_path, 1)
    assert empty.level == PROBLEM and shard.name in empty.found
    monkeypatch.setattr(data.os, "access", lambda path, mode: False)
    (closed,) = check_data(tmp_path, 1)
    assert closed.level == PROBLEM and shard.name in closed.found


def test_a_damaged_evaluation_folder(tmp_path: Path) -> None:
    write_folder(tmp_path / "seq_128", make_records(4))
    (tmp_path / "eval").mkdir()
    assert levels(check_data(tmp_path, 1)) == {"data, phase 1": OK, "data, evaluation": PROBLEM}


def test_paths_that_the_system_refuses() -> None:
    (finding,) = check_data(Path("/tmp", "x" * 300), 1)
    assert finding.level == PROBLEM and "xxx" in finding.found
