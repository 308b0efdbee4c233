"""Files that the package writes and reads again, with some of their bytes replaced.

Most readers refuse damage with an error that names the file; readers of files that only inform continue.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bert_large.data.index import build_indexes, load_index
from bert_large.errors import DamageError, InputError
from bert_large.export.model_card import model_card
from bert_large.observe.metrics import read_rows, read_steps
from bert_large.observe.metrics_writer import MetricsWriter
from bert_large.observe.mlperf import _cut_back
from bert_large.prepare.casing import Casing
from bert_large.prepare.manifest import Manifest, read_manifest
from bert_large.prepare.text_files import MANIFEST_NAME
from bert_large.report.recorded_run import read_runs
from bert_large.report.report import render_page
from bert_large.storage.atomic import read_json
from bert_large.storage.integrity import CHECKSUMS_FILE, check_checksums, facts_of, write_checksums
from bert_large.train.run_folder import mark_ended, plan_start, reason_ended
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.models import tiny_config
from tests.support.recorded_runs import record_run
from tests.support.records import make_records, write_shard
from tests.support.training import identity, train_config

PLACES = st.integers(0, 4095)


def damaged(good: bytes) -> st.SearchStrategy[bytes]:
    """Return a file's bytes with up to eight of them replaced by up to eight others, or cut short there."""

    def replace(place: int, length: int, new: bytes, is_cut: bool) -> bytes:
        place %= len(good)
        return good[:place] if is_cut else good[:place] + new + good[place + length :]

    return st.builds(replace, PLACES, st.integers(0, 8), st.binary(max_size=8), st.booleans())


@dataclass(frozen=True)
class Reader:
    """How a file is written into a folder, and read there."""

    name: str
    write: Callable[[Path], object]
    read: Callable[[Path], object]
    refuses: bool = True
    """Whether damage may be an error."""


def record(folder: Path) -> None:
    folder.rmdir()
    record_run(folder, steps=3, restarts=[2])
    (folder / "run.json").write_text(json.dumps(identity(folder)))


def report(folder: Path) -> None:
    """Make the page without its charts."""
    render_page(read_runs([folder]), [])


def resume_metrics(folder: Path) -> None:
    """Read a run's metrics as a run does at its end, and when it resumes."""
    path = folder / "metrics.jsonl"
    read_steps(path), read_rows(path, "eval")
    MetricsWriter(folder, 2).close()
    assert [row["step"] for row in read_rows(path, "step")] in ([1, 2], [1], [2], [])


def write_manifest(folder: Path) -> None:
    (folder / "part-0").write_text("x")
    facts = facts_of(folder / "part-0")
    manifest = Manifest({"seed": 1}, {"part-0": facts})
    manifest.add("part-0", facts, input="part-0", records=3)
    manifest.write(folder)


def use_manifest(folder: Path) -> None:
    manifest = read_manifest(folder)
    assert manifest is not None
    manifest.damaged_or_missing(folder, 1)


def write_checked_folder(folder: Path) -> None:
    (folder / "weights").write_bytes(b"123")
    write_checksums(folder)


def card(folder: Path) -> None:
    model_card(tiny_config(), 1, Casing(True, True), folder)


def write_log(folder: Path) -> None:
    """Write an MLPerf log of three lines, in the form of its library."""
    lines: list[dict[str, Any]] = [
        {"key": "output_dir", "value": str(folder.resolve()), "metadata": {"file": "a.py", "lineno": 1}},
        {"key": "run_start", "value": None, "metadata": {"samples_count": 0}},
        {"key": "block_start", "value": None, "metadata": {"samples_count": 8, "first_epoch_num": 8}},
    ]
    for line in lines:
        line.update(namespace="", time_ms=1, event_type="POINT_IN_TIME")
    (folder / "log").write_text("".join(f":::MLLOG {json.dumps(line)}\n" for line in lines))


def resume_log(folder: Path) -> None:
    _cut_back(folder / "log", 16)


READERS = {
    "run.json": Reader(
        "run.json",
        lambda folder: plan_start(train_config(folder), identity(folder)).carry_out(),
        lambda folder: plan_start(train_config(folder), identity(folder)),
    ),
    "ended.json": Reader(
        "ended.json",
        lambda folder: mark_ended(train_config(folder), "all 10 steps done"),
        lambda folder: reason_ended(train_config(folder)),
        refuses=False,
    ),
    "metrics.jsonl": Reader("metrics.jsonl", record, resume_metrics, refuses=False),
    "report on metrics.jsonl": Reader("metrics.jsonl", record, report, refuses=False),
    "report on run.json": Reader("run.json", record, report),
    "report on ended.json": Reader("ended.json", record, report),
    "report on results.yaml": Reader("results.yaml", record, report),
    "report on train.log": Reader("train.log", record, report, refuses=False),
    "model card of run.json": Reader("run.json", record, card),
    "model card of metrics.jsonl": Reader("metrics.jsonl", record, card, refuses=False),
    "manifest": Reader(MANIFEST_NAME, write_manifest, use_manifest),
    "MLPerf log": Reader("log", write_log, resume_log),
    "checksums": Reader(CHECKSUMS_FILE, write_checked_folder, check_checksums),
}


@pytest.mark.parametrize("reader", READERS.values(), ids=list(READERS))
def test_damage_of_any_kind(reader: Reader, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    reader.write(folder)
    path = folder / reader.name
    good = path.read_bytes()
    reader.read(folder)

    @settings(max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(damaged(good))
    def run(content: bytes) -> None:
        path.write_bytes(content)
        try:
            reader.read(folder)
        except InputError as error:
            assert reader.refuses, error
            assert str(folder) in str(error)

    run()


@pytest.mark.parametrize("kind", [".json", ".offsets", ".lengths", ".checksums"])
def test_a_data_index_is_used_only_as_it_was_written(kind: str, tmp_path: Path) -> None:
    """If it is damaged, it is built again, so that training uses only correct ids, lengths and places of records."""
    shard = write_shard(tmp_path / "part-0", make_records(5))
    index_dir = tmp_path / "index"

    def build() -> None:
        build_indexes([shard], index_dir, lambda done, total: None)

    build()
    right = load_index(shard, index_dir)
    (path,) = index_dir.glob(f"*{kind}")
    good = path.read_bytes()

    @settings(max_examples=40, deadline=None, database=None)
    @given(damaged(good))
    def run(content: bytes) -> None:
        path.unlink()  # mapped content does not change
        path.write_bytes(content)
        build()
        found = load_index(shard, index_dir)
        assert (found.shape, found.digest) == (right.shape, right.digest)
        for name in ("offsets", "lengths", "checksums"):
            np.testing.assert_array_equal(getattr(found, name), getattr(right, name))

    run()


@pytest.mark.parametrize("content", [b"", b'{"seed": 4', b'{"seed": "\xff"}', b"[" * 100_000, b"[1, 2]", b"null"])
def test_files_that_hold_no_json_object(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_bytes(content)
    with pytest.raises(DamageError, match=f"^{path} "):
        read_json(path)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DamageError, match=f"^{tmp_path} .*{os.strerror(21)}"):
        read_json(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "none")


@pytest.mark.parametrize(
    "content",
    [
        '{"files": {"weights\\u0000": {"bytes": 3, "crc32c": ""}}}',
        '{"files": {"\\ud800": {"bytes": 3, "crc32c": ""}}}',
        '{"files": {"../weights": {"bytes": 3, "crc32c": ""}}}',
        '{"files": {"weights": {"bytes": 1e999, "crc32c": ""}}}',
        '{"files": {"weights": {"bytes": 3, "crc32c": 5}}}',
        '{"files": {}}',
        '{"files": []}',
        "[" * 100_000,
    ],
)
def test_checksums_that_cannot_be_used(content: str, tmp_path: Path) -> None:
    """They are damage like any other, so that a run resumes from the checkpoint before."""
    (tmp_path / "weights").write_bytes(b"123")
    path = tmp_path / CHECKSUMS_FILE
    path.write_text(content)
    with pytest.raises(DamageError, match=f"^{path} "):
        check_checksums(tmp_path, required=["weights"])
