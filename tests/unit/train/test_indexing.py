"""Indexing in the background: its results, its errors, and what happens without it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from bert_large.data.dataset import Dataset
from bert_large.data.index import find_index
from bert_large.data.loader import StepBatches
from bert_large.data.order import BatchSizes, SampleOrder
from bert_large.data.windows import WindowSettings
from bert_large.distributed.collectives import Ranks
from bert_large.errors import DamageError, DataError, InputError
from bert_large.train.indexing import BackgroundIndexing, RecordChecks, background_indexing, open_first_step

from tests.support.records import make_records, write_shard
from tests.support.runs import PROCESS_TIMEOUT_SECONDS


@pytest.fixture
def dataset(tmp_path: Path) -> Iterator[Dataset]:
    """Four windows of one shard of nine records each."""
    for number in range(4):
        write_shard(tmp_path / "data" / f"part-{number}", make_records(36)[9 * number :][:9])
    dataset = Dataset.open(tmp_path / "data", tmp_path / "index", build=True, windows=WindowSettings(6000, 5))
    assert dataset.window_count == 4
    yield dataset
    dataset.close()


def wait_for(indexing: BackgroundIndexing) -> None:
    """Call `raise_error` as every step does, while the process works and after its end."""
    indexing.raise_error()
    indexing._process.join(PROCESS_TIMEOUT_SECONDS)
    indexing.raise_error()


def steps_of(dataset: Dataset) -> StepBatches:
    return StepBatches(dataset, SampleOrder(dataset, 5), BatchSizes(9), 1000, 0, 1)


def test_it_indexes_the_rest(dataset: Dataset, tmp_path: Path) -> None:
    with background_indexing(dataset, Ranks(), wanted=True) as indexing:
        assert indexing is not None
        indexing._process.join()
        indexing.raise_error()
        indexing.raise_error()
    assert all(find_index(path, tmp_path / "index") for path in dataset.paths)


def test_it_is_not_started_for_nothing(dataset: Dataset) -> None:
    with background_indexing(dataset, Ranks(), wanted=False) as indexing:
        assert indexing is None
    with background_indexing(dataset, Ranks(1, 2, 1), wanted=True) as indexing:  # another rank of the host does it
        assert indexing is None
    dataset.count_records()
    with background_indexing(dataset, Ranks(), wanted=True) as indexing:
        assert indexing is None


def test_a_bad_record_is_reported(dataset: Dataset) -> None:
    path = dataset.paths[2]
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    indexing = BackgroundIndexing(dataset)
    with pytest.raises(DataError, match=rf"^{path}: record 8 at byte \d+: "):
        wait_for(indexing)
    indexing.close()


def test_without_the_process_workers_index(dataset: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It may be killed because memory ran out: that is logged, and training continues."""
    indexing = BackgroundIndexing(dataset)
    indexing._process.kill()
    indexing._process.join()
    with caplog.at_level("WARNING", logger="bert_large"):
        wait_for(indexing)
        wait_for(indexing)
    assert len(caplog.messages) <= 1
    assert sum(batch.sequences for step in range(4) for batch in steps_of(dataset)[step]) == 36


def test_a_full_disk_in_the_background_is_a_warning(dataset: Dataset, caplog: pytest.LogCaptureFixture) -> None:
    """An index folder that cannot be written to ends indexing there; training fails if it needs that index."""
    for path in dataset.index_dir.iterdir():
        path.unlink()
    dataset.index_dir.rmdir()
    dataset.index_dir.write_text("a file")
    indexing = BackgroundIndexing(dataset)
    with caplog.at_level("WARNING", logger="bert_large"):
        wait_for(indexing)
    assert str(dataset.index_dir) in caplog.text
    with pytest.raises(InputError, match=str(dataset.index_dir)):
        dataset.count_records()


def test_opening_the_first_step(dataset: Dataset, tmp_path: Path) -> None:
    """A run that resumes at step 2 needs the windows before it too, for their numbers of records."""
    open_first_step(steps_of(dataset), 2, Ranks())
    assert dataset.open_windows == 3
    assert find_index(dataset.paths[3], tmp_path / "index") is None


def test_a_growing_batch_needs_fewer_windows(dataset: Dataset) -> None:
    """The first two steps have 1 and 9 sequences, the third 18."""
    steps = StepBatches(dataset, SampleOrder(dataset, 5), BatchSizes(18, start=1, ramp_steps=2), 1000, 0, 1)
    open_first_step(steps, 1, Ranks())
    assert dataset.open_windows == 2
    open_first_step(steps, 2, Ranks())
    assert dataset.open_windows == 4


def checks(dataset: Dataset, file: Path | None) -> RecordChecks:
    return RecordChecks(steps_of(dataset), Ranks(), [], None, file)


def test_digests_of_the_windows_are_kept(dataset: Dataset, tmp_path: Path) -> None:
    """A run that continues finds the records that it trained on, or is refused."""
    file = tmp_path / "windows.json"
    check = checks(dataset, file)
    check(0)
    digests = json.loads(file.read_text())["windows"]
    assert digests == [dataset.window_digest(0)]
    check(1)
    check(1)
    assert json.loads(file.read_text())["windows"] == [*digests, dataset.window_digest(1)]
    again = Dataset.open(tmp_path / "data", tmp_path / "index", build=True, windows=WindowSettings(6000, 5))
    checks(again, file)(0)
    assert len(json.loads(file.read_text())["windows"]) == 2
    path = dataset.paths[1]
    size = path.stat().st_size
    for extra in range(100):
        write_shard(path, make_records(9 + extra, lengths=(5, 6))[extra:])
        if path.stat().st_size == size:
            break
    again = Dataset.open(tmp_path / "data", tmp_path / "index", build=True, windows=WindowSettings(6000, 5))
    check = checks(again, file)
    check(0)
    with pytest.raises(InputError, match=rf"records of {path} .*{dataset.window_digest(1)}"):
        check(1)


@pytest.mark.parametrize("content", ["", "[]", '{"windows": 3}', "{}"])
def test_a_damaged_file_of_digests(dataset: Dataset, tmp_path: Path, content: str) -> None:
    (tmp_path / "windows.json").write_text(content)
    with pytest.raises(DamageError, match=r"windows.json"):
        checks(dataset, tmp_path / "windows.json")(0)


def test_one_window_needs_no_file(tmp_path: Path) -> None:
    write_shard(tmp_path / "data" / "part-0", make_records(9))
    dataset = Dataset.open(tmp_path / "data", tmp_path / "index", build=True)
    checks(dataset, tmp_path / "windows.json")(0)
    assert not (tmp_path / "windows.json").exists()
