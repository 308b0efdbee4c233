"""Micro-batches of every step of this rank, read and decoded ahead while training runs."""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from multiprocessing.process import BaseProcess
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from bert_large.data.batch import RaggedBatch, from_numpy, make_batch, to_numpy
from bert_large.data.dataset import Dataset
from bert_large.data.masking import DynamicMasking
from bert_large.data.order import BatchSizes, SampleOrder, cut_by_tokens, deal_to_ranks
from bert_large.data.record import BadRecords
from bert_large.errors import UserError
from bert_large.worker_processes import end_with_parent, require_semaphores

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class StepBatches:
    """This rank's micro-batches by step number: a pure function, so any process can compute any step.

    A step is computed in four stages, of which only the last one reads records: the step's range of samples, their
    record numbers (`SampleOrder`), this rank's share of them and its cuts into micro-batches (from the lengths in the
    index), and the records themselves.
    """

    dataset: Dataset
    order: SampleOrder
    batch_sizes: BatchSizes
    micro_batch_tokens: int
    rank: int
    world_size: int
    max_bad_records: int = 0
    masking: DynamicMasking | None = None
    """If None, the masks stored in the records are used."""

    def __getitem__(self, step: int) -> list[RaggedBatch]:
        return self.read(step)[0]

    def read(self, step: int) -> tuple[list[RaggedBatch], list[str]]:
        """Return the micro-batches, and the error message of each bad record that was replaced by another one.

        They include the bad records of all windows that this process opened for the step. The cuts into micro-batches
        are those of the index, whether or not a record turns out to be bad. Raises `DataError` if too many are.
        """
        bad = BadRecords(self.max_bad_records)
        batches = []
        for numbers, samples in self._plan(step):
            records = self.dataset.read_all(numbers, bad)
            if self.masking is not None:
                records = self.masking.draw(records, samples)
            batches.append(make_batch(records, samples.tolist()))
        return batches, [*self.dataset.take_unreported(), *bad.found]

    def describe_samples(self, step: int) -> list[dict[str, Any]]:
        """Return the file and place of each sample of the global batch of all ranks, without reading it."""
        first, stop = self.samples(step)
        described = []
        for sample, number in enumerate(self.order.record_numbers(first, stop), first):
            shard, row = self.dataset.locate(int(number))
            described.append(
                {
                    "sample": sample,
                    "epoch": self.order.epoch_of(sample),
                    "file": str(shard.path),
                    "record": shard.number_of(row),
                    shard.format.offset_unit: int(shard.offsets[row]),
                    "tokens": int(shard.lengths[row]),
                }
            )
        return described

    def count(self, step: int) -> int:
        """Return the number of this rank's micro-batches of a step, without reading a record."""
        return len(self._plan(step))

    def _plan(self, step: int) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Return the record numbers and sample numbers of each micro-batch."""
        first, stop = self.samples(step)
        numbers = self.order.record_numbers(first, stop)
        lengths = self.dataset.lengths(numbers)
        mine = deal_to_ranks(lengths, self.world_size)[self.rank]
        cuts = cut_by_tokens(lengths[mine], self.micro_batch_tokens)
        return [(numbers[mine[cut]], first + mine[cut]) for cut in cuts]

    def samples(self, step: int) -> tuple[int, int]:
        """Return the first sample of a step (from 0), and the first of the next one."""
        return self.batch_sizes.samples(step), self.batch_sizes.samples(step + 1)


@dataclass(frozen=True)
class EvalBatches:
    """Maps a number to one of this rank's micro-batches of an evaluation set, in record order, each record once."""

    dataset: Dataset
    cuts: list[tuple[int, int]]

    @classmethod
    def cut(cls, dataset: Dataset, *, records: int, micro_batch_tokens: int, rank: int, world_size: int) -> EvalBatches:
        """Cut the first `records` records into micro-batches and give each rank every world_size-th of them."""
        lengths = dataset.lengths(np.arange(records, dtype=np.int64))
        cuts = [(cut.start, cut.stop) for cut in cut_by_tokens(lengths, micro_batch_tokens)]
        return cls(dataset, cuts[rank::world_size])

    def __len__(self) -> int:
        return len(self.cuts)

    def __getitem__(self, number: int) -> list[RaggedBatch]:
        start, stop = self.cuts[number]
        return [make_batch(self.dataset.read_all(range(start, stop)), range(start, stop))]


_Packed = tuple[list[dict], list[str]]


class _PackedSteps(TorchDataset):
    """Runs in a worker process: packs the micro-batches of a step as arrays, or returns the user's error instead.

    PyTorch would wrap a raised exception in a traceback of the worker. Returned, it is raised again in the trainer.
    """

    def __init__(self, batches: StepBatches) -> None:
        self.batches = batches

    def __getitem__(self, step: int) -> _Packed | UserError:
        try:
            batches, bad = self.batches.read(step)
        except UserError as error:
            return error
        return [to_numpy(batch) for batch in batches], bad


def iterate_steps(
    batches: StepBatches, start: int, stop: int, workers: int, on_bad_record: Callable[[str], None] = lambda text: None
) -> Iterator[list[RaggedBatch]]:
    """Yield the micro-batches of steps from `start` up to, but not including, `stop`; `workers` processes read ahead.

    The processes start before this returns, so that the caller can load the weights afterwards and the workers do not
    inherit that memory. `on_bad_record` is called for every bad record that a step skipped, before the step is yielded.
    """
    if workers == 0:
        return _report_bad_records(map(batches.read, range(start, stop)), on_bad_record)
    require_semaphores()
    _start_fork_server()
    loader = DataLoader(
        _PackedSteps(batches),
        batch_size=None,
        sampler=range(start, stop),
        num_workers=workers,
        prefetch_factor=2,
        collate_fn=_unchanged,
        worker_init_fn=_follow_trainer,
        multiprocessing_context="forkserver",
    )
    others = set(multiprocessing.active_children())
    packed_steps = iter(loader)
    for worker in set(multiprocessing.active_children()) - others:
        atexit.register(_end, worker)
    return _report_bad_records(_unpack(packed_steps), on_bad_record)


def _start_fork_server() -> None:
    """Start Python's fork server with stop signals blocked, which it and the workers inherit.

    A closed terminal, a scheduler or Ctrl-C signals all processes of the group, but the trainer decides when to stop:
    it still needs the data of the step that it finishes. A signal that reaches the trainer
    while signals are blocked is only delayed.
    """
    resource_tracker.ensure_running()  # otherwise the fork server would start it, and that unblocks the signals
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def _report_bad_records(
    steps: Iterator[tuple[list[RaggedBatch], list[str]]], on_bad_record: Callable[[str], None]
) -> Iterator[list[RaggedBatch]]:
    for micro_batches, bad in steps:
        for text in bad:
            on_bad_record(text)
        yield micro_batches


@contextlib.contextmanager
def explain_dead_worker() -> Iterator[None]:
    """Turn PyTorch's error about a dead worker process, which can be raised anywhere, into a `UserError`."""
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise UserError(
            f"a data worker process died ({str(error).splitlines()[0]}): either memory ran out, or a damaged HDF5 "
            "shard crashed the HDF5 library. Run the same command again to resume from the last checkpoint; if it dies "
            "again, delete the index of the records (INDEX_DIR), so that every shard is checked again"
        ) from None


def _end(worker: BaseProcess) -> None:
    """Kill a worker when the trainer exits: it ignores SIGTERM, and Python would wait for it forever."""
    if worker.is_alive():
        worker.kill()


def _unpack(packed_steps: Iterator[_Packed | UserError]) -> Iterator[tuple[list[RaggedBatch], list[str]]]:
    for packed in packed_steps:
        if isinstance(packed, UserError):
            raise type(packed)(*packed.args)  # `packed` itself would keep its traceback, and so the workers, alive
        yield [from_numpy(fields) for fields in packed[0]], packed[1]


def _unchanged(packed: Any) -> Any:
    return packed


def _follow_trainer(worker: int) -> None:
    """Have this worker end with the trainer and only then: see `_start_fork_server`."""
    for number in _STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    end_with_parent()
