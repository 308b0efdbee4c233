"""Files that the package writes and reads again, some of their bytes replaced: nothing but what is documented.

Most readers refuse damage with an error for users that names the file; those of files that only inform go on.
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
from bert_large.observe.metrics import MetricsWriter, read_rows, read_steps
from bert_large.observe.mlperf import _cut_back
from bert_large.prepare.manifest import Manifest, read_manifest
from bert_large.prepare.text_files import MANIFEST_NAME
from bert_large.report.recorded_run import read_runs
from bert_large.report.report import _page
from bert_large.storage.atomic import read_json
from bert_large.storage.integrity import CHECKSUMS_FILE, check_checksums, facts_of, write_checksums
from bert_large.train.run_folder import claim, mark_ended, reason_ended
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.models import tiny_config
from tests.support.recorded_runs import record_run
from tests.support.records import make_records, write_shard
from tests.unit.train.test_run_folder import identity, train_config

PLACES = st.integers(0, 4095)


def damaged(good: bytes) -> st.SearchStrategy[bytes]:
    """Return a file's bytes with up to eight of them replaced by up to eight others, or cut short there."""

    def replace(place: int, length: int, new: bytes, is_cut: bool) -> bytes:
        place %= len(good)
        return good[:place] if is_cut else good[:place] + new + good[place + length :]

    return st.builds(replace, PLACES, st.integers(0, 8), st.binary(max_size=8), st.booleans())


@dataclass(frozen=True)
class Reader:
    """What writes a file into a folder, and what reads it there."""

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
    """Make the page, but for its charts."""
    _page(read_runs([folder]), [])


def resume_figures(folder: Path) -> None:
    """Read a run's figures as a run that comes to its end does, and as one that goes on does."""
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
    model_card(tiny_config(), 1, True, folder)


def write_log(folder: Path) -> None:
    """Leave an MLPerf log of three lines, as the library for it writes them."""
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
        lambda folder: claim(train_config(folder), identity(folder)),
        lambda folder: claim(train_config(folder), identity(folder)),
    ),
    "ended.json": Reader(
        "ended.json",
        lambda folder: mark_ended(train_config(folder), "all 10 steps done"),
        lambda folder: reason_ended(train_config(folder)),
        refuses=False,
    ),
    "metrics.jsonl": Reader("metrics.jsonl", record, resume_figures, refuses=False),
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
    """Where it is damaged it is made again: no ids, lengths or places of records but the right ones are trained on."""
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
        path.unlink()  # what is mapped stays as it is
        path.write_bytes(content)
        build()
        found = load_index(shard, index_dir)
        assert (found.shape, found.digest) == (right.shape, right.digest)
        for name in ("offsets", "lengths", "checksums"):
            np.testing.assert_array_equal(getattr(found, name), getattr(right, name))

    run()


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "it is no JSON: Expecting value: line 1 column 1"),
        (b'{"seed": 4', "it is no JSON: Expecting ',' delimiter: line 1 column 11"),
        (b'{"seed": "\xff"}', "it is no JSON: 'utf-8' codec can't decode byte 0xff in position 10"),
        (b"[" * 100_000, "it is no JSON: maximum recursion depth"),
        (b"[1, 2]", r"found '\[1, 2\]', expected a JSON object"),
        (b"null", "found 'None', expected a JSON object"),
    ],
)
def test_what_is_found_instead_of_an_object(content: bytes, found: str, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_bytes(content)
    with pytest.raises(DamageError, match=f"^{path} is damaged: {found}"):
        read_json(path)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DamageError, match=f"^{tmp_path} cannot be read: {os.strerror(21)}"):
        read_json(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "none")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ('{"files": {"weights\\u0000": {"bytes": 3, "crc32c": ""}}}', r"'weights\\x00' is no name of a file"),
        ('{"files": {"\\ud800": {"bytes": 3, "crc32c": ""}}}', "surrogates not allowed"),
        ('{"files": {"../weights": {"bytes": 3, "crc32c": ""}}}', "is no name of a file in this folder"),
        ('{"files": {"weights": {"bytes": 1e999, "crc32c": ""}}}', "weights has the size inf"),
        ('{"files": {}}', "it does not name weights"),
        ('{"files": []}', "has no attribute 'items'"),
        ("[" * 100_000, "maximum recursion depth"),
    ],
)
def test_checksums_that_cannot_be_used(content: str, found: str, tmp_path: Path) -> None:
    """Whatever they say, they are an error for users: else no checkpoint before that one would be gone on from."""
    (tmp_path / "weights").write_bytes(b"123")
    path = tmp_path / CHECKSUMS_FILE
    path.write_text(content)
    with pytest.raises(DamageError, match=f"^{path} is damaged: .*{found}"):
        check_checksums(tmp_path, required=["weights"])
