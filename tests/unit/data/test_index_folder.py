"""Where the index is kept, and how runs share it."""

from __future__ import annotations

import multiprocessing
import os
import shutil
from pathlib import Path

import pytest
from bert_large.data import index, index_folder
from bert_large.data.dataset import Dataset
from bert_large.data.index import BESIDE, build_indexes, find_index, make_index, scan_shard
from bert_large.data.index_folder import choose_index_dir
from bert_large.data.record import RecordLimits
from bert_large.errors import DataError, WriteError
from bert_large.storage.lock import file_lock

from tests.support.records import make_records, write_folder, write_shard

RECORDS = make_records(12)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of one shard; the user's cache is empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return write_folder(tmp_path / "data", RECORDS)


def shard_of(folder: Path) -> Path:
    return next(path for path in folder.iterdir() if path.is_file())


def forbid_scans(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "scan_shard", lambda *_: pytest.fail("scanned again"))


def forbid_writing_to(monkeypatch: pytest.MonkeyPatch, *places: Path) -> None:
    """Tests may run as root, who can write everywhere."""

    def refuse(dir: Path) -> object:
        if dir in places:
            raise PermissionError
        return tempfile_at(dir=dir)

    tempfile_at = index_folder.tempfile.TemporaryFile
    monkeypatch.setattr(index_folder.tempfile, "TemporaryFile", refuse)


def test_it_is_beside_the_data(folder: Path, tmp_path: Path) -> None:
    assert choose_index_dir(folder, None, tmp_path / "out") == folder / BESIDE
    assert not (tmp_path / "cache").exists()


def test_it_is_where_the_user_wants(folder: Path, tmp_path: Path) -> None:
    assert choose_index_dir(folder, tmp_path / "mine", tmp_path / "out") == tmp_path / "mine"
    assert not (folder / BESIDE).exists()


def test_data_that_cannot_be_written_to(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's cache, else the run's own folder."""
    cache = tmp_path / "cache" / "bert-large" / "index"
    forbid_writing_to(monkeypatch, folder / BESIDE)
    assert choose_index_dir(folder, None, tmp_path / "out") == cache
    forbid_writing_to(monkeypatch, folder / BESIDE, cache)
    assert choose_index_dir(folder, None, tmp_path / "out") == tmp_path / "out"


def test_a_folder_that_cannot_be_made(folder: Path, tmp_path: Path) -> None:
    (folder / BESIDE).write_text("a file")
    assert choose_index_dir(folder, None, tmp_path / "out") == tmp_path / "cache" / "bert-large" / "index"


@pytest.mark.parametrize(("cache", "home"), [("", "/home/me"), ("relative", "/home/me")])
def test_the_cache_without_its_variable(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: str, home: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", cache)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    forbid_writing_to(monkeypatch, folder / BESIDE)
    assert choose_index_dir(folder, None, tmp_path) == tmp_path / "home" / ".cache" / "bert-large" / "index"


def test_a_full_disk(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_folder, "free_bytes", lambda path: 10 if path == folder / BESIDE else 10**9)
    assert choose_index_dir(folder, None, tmp_path) == tmp_path / "cache" / "bert-large" / "index"


def test_an_estimate_of_the_size(folder: Path) -> None:
    build_indexes([shard_of(folder)], folder / BESIDE, lambda done, total: None)
    size = sum(path.stat().st_size for path in (folder / BESIDE).iterdir() if path.suffix != ".json")
    assert size == 16 * 12 < index_folder._INDEX_SHARE * shard_of(folder).stat().st_size


def test_an_index_beside_the_data_is_used_by_everyone(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also by those who cannot write there, and by a copy of the folder at another path."""
    Dataset.open(folder, folder / BESIDE, build=True)
    shutil.copytree(folder, tmp_path / "copy")
    forbid_scans(monkeypatch)
    assert len(Dataset.open(folder, tmp_path / "other", build=True)) == 12
    assert len(Dataset.open(tmp_path / "copy", tmp_path / "other", build=True)) == 12
    assert not (tmp_path / "other").exists()


def test_an_index_elsewhere_belongs_to_one_path(folder: Path, tmp_path: Path) -> None:
    """Shards of the same name, size and time need not be the same."""
    Dataset.open(folder, tmp_path / "index", build=True)
    shutil.copytree(folder, tmp_path / "copy")
    assert find_index(shard_of(folder), tmp_path / "index") is not None
    assert find_index(shard_of(tmp_path / "copy"), tmp_path / "index") is None


def test_one_index_serves_all_models(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If their limits are wide enough; otherwise the records are refused, or skipped in an index for such models."""
    path, where = shard_of(folder), tmp_path / "index"
    scanned = scan_shard(path)
    longest, largest = int(scanned.lengths.max()), scanned.largest_id
    fitting = RecordLimits(largest + 1, longest)
    assert make_index(path, where, RecordLimits(30522, 512))
    for limits in (RecordLimits(largest, longest), RecordLimits(largest + 1, longest - 1)):
        assert find_index(path, where, limits) is None
        with pytest.raises(DataError, match=rf"^{path}: record \d+ at byte \d+: "):
            make_index(path, where, limits)
        assert make_index(path, where, limits, 12)
        found = find_index(path, where, limits)
        assert found is not None and found.bad_records
    forbid_scans(monkeypatch)
    for wide in (None, fitting, RecordLimits(30522, 512)):
        found = find_index(path, where, wide)
        assert found is not None and found.digest == scanned.digest and not found.bad_records


def test_two_processes_share_the_work(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one holds the lock of a shard, another one leaves it; if that takes too long, it scans the shard too."""
    path, where = shard_of(folder), tmp_path / "index"
    where.mkdir()
    lock = index._part(index._index_path(path, where, None), "lock")
    with file_lock(lock) as is_mine:
        assert is_mine
        assert not make_index(path, where, wait=False)
        assert find_index(path, where) is None
        monkeypatch.setattr(index, "_PATIENCE_SECONDS", 0.2)
        assert make_index(path, where)
        assert find_index(path, where) is not None
    assert not lock.exists()


def test_a_waiting_process_uses_the_index_of_the_other(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, where = shard_of(folder), tmp_path / "index"
    where.mkdir()
    with file_lock(index._part(index._index_path(path, where, None), "lock")):
        monkeypatch.setattr(index.time, "sleep", lambda _: index._scan_and_store(path, where, None, 0))
        assert make_index(path, where)
        forbid_scans(monkeypatch)
        build_indexes([path], where, lambda done, total: pytest.fail("scanned"))


def _build(folder: Path, where: Path) -> None:
    Dataset.open(folder, where, build=True)


@pytest.mark.slow
def test_many_processes_at_once(folder: Path, tmp_path: Path) -> None:
    """All succeed, with one intact index and nothing left over."""
    for number in range(8):
        write_shard(folder / f"more-{number}", RECORDS[number:])
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_build, args=(folder, tmp_path / "index")) for _ in range(5)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    suffixes = sorted(path.suffix for path in (tmp_path / "index").iterdir())
    assert suffixes == sorted([".json", ".offsets", ".lengths", ".checksums"] * 9)
    assert len(Dataset.open(folder, tmp_path / "index", build=False)) == 12 + sum(12 - n for n in range(8))


def test_files_that_killed_processes_left(folder: Path, tmp_path: Path) -> None:
    """An array without the JSON file, a lock and a temporary file do not matter; old temporary files are deleted."""
    path, where = shard_of(folder), tmp_path / "index"
    assert make_index(path, where)
    (facts,) = where.glob("*.json")
    facts.unlink()
    index._part(index._index_path(path, where, None), "lock").touch()
    old, new = where / ".x.7-aaaaaaaa.partial", where / ".y.7-aaaaaaaa.partial"
    for leftover in (old, new):
        leftover.write_bytes(b"x")
    os.utime(old, (0, 0))
    assert make_index(path, where)
    assert find_index(path, where) is not None
    assert new.exists() and not old.exists() and not list(where.glob("*.lock"))


def test_an_index_that_cannot_be_written(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> object:
        raise WriteError(f"{path} could not be written")

    monkeypatch.setattr(index, "write_atomically", refuse)
    with pytest.raises(WriteError, match=str(tmp_path / "index")):
        make_index(shard_of(folder), tmp_path / "index")
