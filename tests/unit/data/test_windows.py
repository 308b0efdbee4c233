"""Windows: the first steps need the first window only, and the order is a function of seed, epoch and position."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from bert_large.data import dataset as dataset_module
from bert_large.data.dataset import Dataset
from bert_large.data.index import find_index
from bert_large.data.loader import StepBatches, iterate_steps
from bert_large.data.order import BatchSizes, SampleOrder
from bert_large.data.windows import WindowSettings, divide
from bert_large.errors import DataError

from tests.support.records import PHASE_2_SHAPE, assert_same_record, make_records, write_shard

RECORDS = make_records(36)
GOLDEN_SHARDS = ["part-4", "part-0", "part-1", "part-3", "part-2", "part-5"]
GOLDEN_NUMBERS = [5, 4, 6, 2, 0, 1, 10, 7, 9, 8, 3, 18, 20, 11, 17, 16, 13, 19, 15, 14, 21, 12, 33, 26, 35, 23, 34, 25,
                  27, 31, 24, 28, 29, 22, 30, 32, 4, 3, 28, 32]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Shards of 3, 4, 5, 7, 8 and 9 records."""
    start = 0
    for number, count in enumerate((3, 4, 5, 7, 8, 9)):
        write_shard(tmp_path / "data" / f"part-{number}", RECORDS[start : start + count])
        start += count
    return tmp_path / "data"


def open_windows(folder: Path, seed: int | None = 5, size_bytes: int = 7000, **how: object) -> Dataset:
    windows = WindowSettings(size_bytes, seed)
    return Dataset.open(folder, folder.parent / "index", build=True, windows=windows, **how)  # type: ignore[arg-type]


def indexed(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_file() and find_index(path, folder.parent / "index")}


def order_of(dataset: Dataset, shuffle: bool = True) -> SampleOrder:
    return SampleOrder(dataset, 5, shuffle)


def sizes_of(paths: list[Path], sizes: list[int]) -> list[Path]:
    for path, size in zip(paths, sizes, strict=True):
        path.write_bytes(bytes(size))
    return paths


@pytest.mark.parametrize(
    ("sizes", "size_bytes", "ends"),
    [
        ([5, 5, 5, 5], 0, [4]),
        ([5, 5, 5, 5], 20, [4]),
        ([5, 5, 5, 5], 19, [4]),
        ([5, 5, 5, 5], 10, [2, 4]),
        ([5, 5, 5, 5], 1, [1, 2, 3, 4]),
        ([5, 5, 5, 5, 5], 10, [2, 4, 5]),  # what is left over is half a window
        ([5, 5, 5, 5, 4], 10, [2, 5]),
        ([100, 5, 5], 10, [1, 3]),
        ([100], 10, [1]),
    ],
)
def test_shards_are_divided_by_their_sizes(tmp_path: Path, sizes: list[int], size_bytes: int, ends: list[int]) -> None:
    paths = sizes_of([tmp_path / str(number) for number in range(len(sizes))], sizes)
    assert divide(paths, WindowSettings(size_bytes, None)) == (paths, ends)
    shuffled, _ = divide(paths, WindowSettings(size_bytes, 1))
    assert sorted(shuffled) == paths


def test_the_seed_decides_the_order_of_shards(tmp_path: Path) -> None:
    paths = sizes_of([tmp_path / f"{number:02}" for number in range(50)], [1] * 50)
    orders = {tuple(divide(paths, WindowSettings(9, seed))[0]) for seed in (0, 1, 2)}
    assert len(orders) == 3
    assert divide(paths, WindowSettings(50, 1))[0] == paths  # one window


def test_a_shard_that_vanishes(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"{tmp_path}/gone cannot be opened: No such file"):
        divide([tmp_path / "gone"], None)


@pytest.mark.parametrize("shuffle", [True, False])
def test_only_the_windows_of_a_step_are_indexed(folder: Path, shuffle: bool) -> None:
    dataset = open_windows(folder, seed=5 if shuffle else None)
    assert dataset.window_count > 2
    first = {path.name for path in dataset.paths[: dataset.ends[0]]}
    assert indexed(folder) == first and len(dataset) < 36
    order_of(dataset, shuffle).record_numbers(0, len(dataset))
    assert indexed(folder) == first
    order_of(dataset, shuffle).record_numbers(len(dataset), len(dataset) + 1)
    assert indexed(folder) == {path.name for path in dataset.paths[: dataset.ends[1]]}


def test_an_epoch_has_every_record_once(folder: Path) -> None:
    """In the first epoch window by window; in later ones in one permutation of all, that of data in one window."""
    dataset = open_windows(folder)
    order = order_of(dataset)
    start = 0
    for window in range(dataset.window_count):
        end = dataset.window_end(window)
        assert sorted(order.record_numbers(start, end)) == list(range(start, end))
        assert {order.epoch_of(sample) for sample in range(start, end)} == {0}
        start = end
    assert start == 36
    for epoch in (1, 2):
        numbers = order.record_numbers(36 * epoch, 36 * (epoch + 1))
        assert sorted(numbers) == list(range(36))
        assert numbers.tolist() == SampleOrder(36, 5).record_numbers(36 * epoch, 36 * (epoch + 1)).tolist()
        assert order.epoch_of(36 * epoch) == order.epoch_of(36 * epoch + 35) == epoch


def test_windows_have_different_permutations(tmp_path: Path) -> None:
    for number in range(4):
        write_shard(tmp_path / "data" / f"part-{number}", RECORDS[:9])
    dataset = open_windows(tmp_path / "data", size_bytes=6000)
    assert dataset.window_count == 4
    orders = {tuple(order_of(dataset).record_numbers(9 * window, 9 * window + 9) - 9 * window) for window in range(4)}
    assert len(orders) == 4
    assert tuple(SampleOrder(9, 5).record_numbers(0, 9)) in orders  # the first


def test_golden_order(folder: Path) -> None:
    """It must never change: checkpoints are resumed in it."""
    dataset = open_windows(folder)
    assert [path.name for path in dataset.paths] == GOLDEN_SHARDS
    assert order_of(dataset).record_numbers(0, 40).tolist() == GOLDEN_NUMBERS


def test_any_part_of_the_order_can_be_computed_alone(folder: Path) -> None:
    """A process that begins in the middle opens the windows before it too, and finds the same samples."""
    whole = order_of(open_windows(folder)).record_numbers(0, 100)
    for start, stop in ((0, 1), (11, 13), (30, 40), (35, 36), (36, 37), (50, 100)):
        assert order_of(open_windows(folder)).record_numbers(start, stop).tolist() == whole[start:stop].tolist()
    assert order_of(open_windows(folder)).record_numbers(7, 7).tolist() == []


def test_records_are_those_of_the_file(folder: Path) -> None:
    dataset = open_windows(folder)
    for number in (35, 0, 17):  # opens the windows
        shard, row = dataset.locate(number)
        first = sum((3, 4, 5, 7, 8, 9)[: int(shard.path.name[-1])])
        assert_same_record(dataset.read(number), RECORDS[first + row])
        assert dataset.lengths(np.array([number])) == len(RECORDS[first + row].input_ids)
    dataset.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_open_windows_on_their_own(folder: Path, workers: int) -> None:
    """The micro-batches are those of a data set that was open from the start."""
    dataset, complete = open_windows(folder), open_windows(folder)
    complete.window_end(complete.window_count - 1)
    steps = StepBatches(dataset, order_of(dataset), BatchSizes(10), 100, 0, 1)
    expected = StepBatches(complete, order_of(complete), BatchSizes(10), 100, 0, 1)
    for number, batches in enumerate(iterate_steps(steps, 0, 8, workers)):
        for ours, theirs in zip(batches, expected[number], strict=True):
            assert ours.input_ids.tolist() == theirs.input_ids.tolist()
    assert len(dataset) == (36 if workers == 0 else complete.window_end(0))


def test_a_copy_shares_the_index(folder: Path) -> None:
    """A data worker gets the place of the arrays, not the arrays, and keeps them if the shard is replaced."""
    dataset = open_windows(folder, size_bytes=0)
    pickled = pickle.dumps(dataset)
    assert len(pickled) < 6000
    write_shard(dataset.paths[0], RECORDS[:1])
    copy = pickle.loads(pickled)
    assert isinstance(copy.shards[0].offsets, np.memmap) and len(copy) == 36
    for path in (folder.parent / "index").iterdir():
        path.unlink()
    with pytest.raises(DataError, match=r"cannot be read any more"):
        pickle.loads(pickled)


def test_bad_records_of_later_windows_are_reported_once(folder: Path) -> None:
    dataset = open_windows(folder, max_bad_records=1)
    last = dataset.paths[-1]
    content = bytearray(last.read_bytes())
    content[-9] ^= 1
    last.write_bytes(content)
    steps = StepBatches(dataset, order_of(dataset), BatchSizes(12), 100, 0, 1, max_bad_records=1)
    found = [text for step in range(4) for text in steps.read(step)[1]]
    assert len(found) == 1 and found[0].startswith(f"{last}: record ")
    strict = open_windows(folder)
    with pytest.raises(DataError, match=rf"^{last}: record "):
        order_of(strict).record_numbers(0, 36)


def test_bad_records_of_all_windows_count(folder: Path) -> None:
    dataset = open_windows(folder, max_bad_records=1)
    for path in (dataset.paths[-1], dataset.paths[-3]):
        content = bytearray(path.read_bytes())
        content[-9] ^= 1
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"more than --max-bad-records 1"):
        dataset.window_end(dataset.window_count - 1)


def test_a_shard_of_another_shape_in_a_later_window(folder: Path) -> None:
    dataset = open_windows(folder)
    write_shard(dataset.paths[-1], RECORDS[:3], PHASE_2_SHAPE)
    with pytest.raises(DataError, match=rf"{dataset.paths[-1]} holds .*512.*{dataset.paths[0]} holds .*128"):
        dataset.window_end(dataset.window_count - 1)


def test_fingerprints(folder: Path, tmp_path: Path) -> None:
    """Of one window the records', as ever; of several the sizes', whichever are open, and one for each window."""
    whole, dataset = open_windows(folder, size_bytes=0), open_windows(folder)
    assert whole.fingerprint() == whole.window_digest(0)
    before = dataset.fingerprint()
    dataset.window_end(dataset.window_count - 1)
    assert dataset.fingerprint() == before == open_windows(folder, seed=6).fingerprint() != whole.fingerprint()
    assert len({dataset.window_digest(window) for window in range(dataset.window_count)}) == dataset.window_count
    changed = dataset.paths[0]
    content = write_shard(tmp_path / "other", list(reversed(RECORDS[:9]))).read_bytes()
    digest = dataset.window_digest(0)
    changed.write_bytes(content[: changed.stat().st_size])
    assert len(content) >= changed.stat().st_size and digest == dataset.window_digest(0)


@pytest.fixture
def few_at_once(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(dataset_module, "MAX_OPEN_FILES", 2)
    yield


def test_the_number_of_records(folder: Path, few_at_once: None) -> None:
    """Estimated from sizes until all windows are open, and counted where the exact number is needed."""
    dataset = open_windows(folder)
    assert dataset.estimate_records() == pytest.approx(36, rel=0.2)
    assert dataset.count_records() == len(dataset) == dataset.estimate_records() == 36
    assert len(dataset.read_all(range(36))) == 36
