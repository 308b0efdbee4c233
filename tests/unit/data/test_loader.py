"""Steps as micro-batches: every sample of a step once, in any process, on any number of ranks, with any cuts."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Iterator
from multiprocessing import forkserver
from pathlib import Path

import numpy as np
import pytest
import torch
from bert_large.data.batch import RaggedBatch, to_numpy
from bert_large.data.dataset import Dataset
from bert_large.data.loader import EvalBatches, StepBatches, explain_dead_worker, iterate_steps
from bert_large.data.order import BatchSizes, SampleOrder
from bert_large.errors import DataError, UserError, WriteError

from tests.support.records import make_records, write_folder

RECORDS = make_records(50)
GLOBAL_BATCH_SIZE = 12


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = write_folder(tmp_path_factory.mktemp("loader") / "data", RECORDS, shards=2)
    return Dataset.open(folder, folder.parent / "index", build=True)


def step_batches(dataset: Dataset, *, rank: int = 0, world_size: int = 1, micro_batch_tokens: int = 60) -> StepBatches:
    return StepBatches(
        dataset=dataset,
        order=SampleOrder(len(dataset), seed=5),
        batch_sizes=BatchSizes(GLOBAL_BATCH_SIZE),
        micro_batch_tokens=micro_batch_tokens,
        rank=rank,
        world_size=world_size,
    )


def tokens_by_sample(batches: list[RaggedBatch]) -> dict[int, list[int]]:
    """Return the tokens of each sample; fails if a sample comes twice."""
    found: dict[int, list[int]] = {}
    for batch in batches:
        bounds = batch.cu_seqlens.tolist()
        for sample, start, stop in zip(batch.samples.tolist(), bounds[:-1], bounds[1:], strict=True):
            assert sample not in found
            found[sample] = batch.input_ids[start:stop].tolist()
    return found


@pytest.mark.parametrize(("rank", "world_size", "micro_batch_tokens"), [(0, 1, 60), (1, 2, 60), (0, 1, 10_000)])
def test_micro_batches_are_counted_without_reading(
    dataset: Dataset, rank: int, world_size: int, micro_batch_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = step_batches(dataset, rank=rank, world_size=world_size, micro_batch_tokens=micro_batch_tokens)
    expected = [len(batches[step]) for step in range(3)]
    assert micro_batch_tokens < 100 or expected == [1, 1, 1]
    monkeypatch.setattr(Dataset, "read", None)
    assert [batches.count(step) for step in range(3)] == expected


@pytest.mark.parametrize("world_size", [1, 2, 3, 12])
@pytest.mark.parametrize("micro_batch_tokens", [1, 60, 10_000])
def test_a_step_has_the_same_samples_on_any_number_of_ranks(
    dataset: Dataset, world_size: int, micro_batch_tokens: int
) -> None:
    """Samples 48 to 59 of the order, across the border of two epochs, each on exactly one rank."""
    step = 4
    numbers = SampleOrder(50, seed=5).record_numbers(48, 60)
    expected = {48 + index: RECORDS[number].input_ids.tolist() for index, number in enumerate(numbers)}
    shares = [
        step_batches(dataset, rank=rank, world_size=world_size, micro_batch_tokens=micro_batch_tokens)[step]
        for rank in range(world_size)
    ]
    assert tokens_by_sample([batch for share in shares for batch in share]) == expected
    assert all(batch.tokens <= micro_batch_tokens or batch.sequences == 1 for share in shares for batch in share)
    assert all(share for share in shares)


def test_a_worker_process_gives_the_same_batches(dataset: Dataset) -> None:
    """Steps arrive in order and equal in every tensor, decoded in this process or ahead in another one."""
    batches = step_batches(dataset)
    here, ahead = list(iterate_steps(batches, 2, 6, 0)), list(iterate_steps(batches, 2, 6, 1))
    assert len(here) == len(ahead) == 4
    for ours, theirs in zip(here, ahead, strict=True):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            for (name, expected), found in zip(to_numpy(one).items(), to_numpy(other).values(), strict=True):
                assert np.array_equal(found, expected), name
                assert isinstance(found, int) or found.dtype == expected.dtype


@pytest.mark.parametrize("workers", [0, 1])
def test_a_workers_data_error_reaches_the_trainer(tmp_path: Path, workers: int) -> None:
    """As the same `DataError` with file and byte, not as a worker's traceback."""
    folder = write_folder(tmp_path / "data", RECORDS)
    dataset = Dataset.open(folder, tmp_path / "index", build=True)
    (path,) = folder.iterdir()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    offset = int(dataset.shards[0].offsets[-1])
    in_file_order = SampleOrder(50, seed=0, shuffle=False)
    steps: Iterator[list[RaggedBatch]] = iterate_steps(
        StepBatches(dataset, in_file_order, BatchSizes(25), 1000, 0, 1), 0, 2, workers
    )
    assert sum(batch.sequences for batch in next(steps)) == 25
    with pytest.raises(DataError, match=rf"^{path}: record 49 at byte {offset}: [^\n]*$"):
        next(steps)


class OnFullDisk(StepBatches):
    """Cannot write the index of a window that a step opens."""

    def read(self, step: int) -> tuple[list[RaggedBatch], list[str]]:
        raise WriteError(f"step {step} cannot be written: the disk is full")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_workers_other_errors_keep_their_type_and_message(dataset: Dataset, workers: int) -> None:
    with pytest.raises(WriteError, match=r"^step 3 cannot be written: the disk is full$"):
        next(iterate_steps(OnFullDisk(**vars(step_batches(dataset))), 3, 4, workers))


def test_a_dead_worker_is_one_line_for_the_user(dataset: Dataset) -> None:
    """As when the HDF5 library crashes. Other errors of PyTorch are unchanged."""
    others = set(multiprocessing.active_children())
    with (
        pytest.raises(UserError, match=r"^[^\n]*DataLoader worker[^\n]*$"),
        explain_dead_worker(),
    ):
        steps = iterate_steps(step_batches(dataset), 0, 1000, 1)
        next(steps)
        (worker,) = set(multiprocessing.active_children()) - others
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGSEGV)
        list(steps)
    with pytest.raises(RuntimeError, match=r"^other$"), explain_dead_worker():
        raise RuntimeError("other")


def test_workers_outlive_signals_to_the_process_group(dataset: Dataset) -> None:
    """A closed terminal signals workers and the fork server too, but the trainer still needs data for its last step."""
    others = set(multiprocessing.active_children())
    steps = iterate_steps(step_batches(dataset), 0, 8, 1)
    next(steps)
    (worker,) = set(multiprocessing.active_children()) - others
    server = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        assert worker.pid is not None
        for process in (worker.pid, server):
            os.kill(process, number)
    assert len(list(steps)) == 7
    assert os.waitpid(server, os.WNOHANG) == (0, 0)


def test_no_semaphores_are_explained(dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without /dev/shm, Python's error names nothing; here in the loader and in the processes that build indexes."""

    def fail(*arguments: object, **options: object) -> None:
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr("multiprocessing.synchronize.Lock", fail)
    with pytest.raises(UserError, match="/dev/shm"):
        iterate_steps(step_batches(dataset), 0, 8, 1)
    folder = write_folder(tmp_path / "data", RECORDS, shards=2)
    monkeypatch.setattr("bert_large.data.index._BYTES_PER_PROCESS", 1)
    with pytest.raises(UserError, match="/dev/shm"):
        Dataset.open(folder, tmp_path / "index", build=True)


def test_samples_are_described(dataset: Dataset) -> None:
    """By file, record, byte and length."""
    described = step_batches(dataset, rank=1, world_size=2).describe_samples(2)
    numbers = SampleOrder(50, seed=5).record_numbers(24, 36)
    for sample, (number, found) in enumerate(zip(numbers.tolist(), described, strict=True), 24):
        shard, row = dataset.locate(number)
        assert found == {
            "sample": sample, "epoch": 0, "file": str(shard.path), "record": row, "byte": shard.offsets[row],
            "tokens": shard.lengths[row],
        }  # fmt: skip
    assert json.loads(json.dumps(described)) == described


@pytest.mark.parametrize("world_size", [1, 2, 5, 40])
@pytest.mark.parametrize("records", [1, 13, 50])
def test_evaluation_takes_the_first_records_once(dataset: Dataset, world_size: int, records: int) -> None:
    """In record order on each rank, including the last partial batch; a rank may have no records."""
    found: list[int] = []
    for rank in range(world_size):
        batches = EvalBatches.cut(dataset, records=records, micro_batch_tokens=100, rank=rank, world_size=world_size)
        samples = [sample for number in range(len(batches)) for sample in batches[number][0].samples.tolist()]
        assert samples == sorted(samples)
        found += samples
        for number in range(len(batches)):
            (batch,) = batches[number]
            first = RECORDS[int(batch.samples[0])]
            assert torch.equal(batch.input_ids[: len(first.input_ids)], torch.from_numpy(first.input_ids).long())
    assert sorted(found) == list(range(records))
