"""Micro-batches of every step of this rank, read and decoded ahead while training runs."""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from bert_large.data.batch import RaggedBatch, from_numpy, make_batch, to_numpy
from bert_large.data.dataset import Dataset
from bert_large.data.index import is_hdf5
from bert_large.data.masking import DynamicMasking
from bert_large.data.order import SampleOrder, cut_by_tokens, deal_to_ranks
from bert_large.data.record import BadRecords
from bert_large.errors import DataError, UserError
from bert_large.worker_processes import end_with_parent


@dataclass(frozen=True)
class StepBatches:
    """Maps a step number to this rank's micro-batches: a pure function, so any process can compute any step."""

    dataset: Dataset
    order: SampleOrder
    global_batch_size: int
    micro_batch_tokens: int
    rank: int
    world_size: int
    max_bad_records: int = 0
    masking: DynamicMasking | None = None
    """None: the records' own masks."""

    def __getitem__(self, step: int) -> list[RaggedBatch]:
        return self.read(step)[0]

    def read(self, step: int) -> tuple[list[RaggedBatch], list[str]]:
        """Return the micro-batches and what is wrong with each bad record for which another one stands in.

        The micro-batches are cut as if no record were bad. Raises `DataError` when too many are.
        """
        bad = BadRecords(self.max_bad_records)
        batches = []
        for numbers, samples in self._plan(step):
            records = self.dataset.read_all(numbers, bad)
            if self.masking is not None:
                records = self.masking.draw(records, samples)
            batches.append(make_batch(records, samples.tolist()))
        return batches, list(bad.found)

    def describe_samples(self, step: int) -> list[dict[str, Any]]:
        """Return where each sample of a global batch lies, over all ranks, without reading it."""
        first = step * self.global_batch_size
        described = []
        for sample, number in enumerate(self.order.record_numbers(first, first + self.global_batch_size), first):
            shard, row = self.dataset.locate(int(number))
            place = "row" if is_hdf5(shard.path) else "byte"
            described.append(
                {
                    "sample": sample,
                    "epoch": sample // self.order.records,
                    "file": str(shard.path),
                    "record": shard.number_of(row),
                    place: int(shard.offsets[row]),
                    "tokens": int(shard.lengths[row]),
                }
            )
        return described

    def count(self, step: int) -> int:
        """Return the number of this rank's micro-batches of a step, without reading a record."""
        return len(self._plan(step))

    def _plan(self, step: int) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Return the record numbers and sample numbers of each micro-batch."""
        first = step * self.global_batch_size
        numbers = self.order.record_numbers(first, first + self.global_batch_size)
        lengths = self.dataset.lengths(numbers)
        mine = deal_to_ranks(lengths, self.world_size)[self.rank]
        cuts = cut_by_tokens(lengths[mine], self.micro_batch_tokens)
        return [(numbers[mine[cut]], first + mine[cut]) for cut in cuts]


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


class _Portable(TorchDataset):
    """What a loader process runs: micro-batches as arrays, or the error that befell it, which the trainer raises."""

    def __init__(self, batches: StepBatches) -> None:
        self.batches = batches

    def __getitem__(self, step: int) -> _Packed | DataError:
        try:
            batches, bad = self.batches.read(step)
        except DataError as error:
            return error
        return [to_numpy(batch) for batch in batches], bad


def iterate_steps(
    batches: StepBatches, start: int, stop: int, workers: int, on_bad_record: Callable[[str], None] = lambda text: None
) -> Iterator[list[RaggedBatch]]:
    """Yield the micro-batches of steps `start` up to `stop`, `workers` processes working ahead.

    The processes start before this returns, so that they do not inherit the weights' memory. `on_bad_record` is told
    of every bad record that a step passed over before the step is yielded.
    """
    if workers == 0:
        return _tell(map(batches.read, range(start, stop)), on_bad_record)
    loader = DataLoader(
        _Portable(batches),
        batch_size=None,
        sampler=range(start, stop),
        num_workers=workers,
        prefetch_factor=2,
        collate_fn=_as_is,
        worker_init_fn=_follow_trainer,
        multiprocessing_context="forkserver",
    )
    others = set(multiprocessing.active_children())
    packed_steps = iter(loader)
    for worker in set(multiprocessing.active_children()) - others:
        atexit.register(_end, worker)
    return _tell(_unpack(packed_steps), on_bad_record)


def _tell(
    steps: Iterator[tuple[list[RaggedBatch], list[str]]], on_bad_record: Callable[[str], None]
) -> Iterator[list[RaggedBatch]]:
    for micro_batches, bad in steps:
        for text in bad:
            on_bad_record(text)
        yield micro_batches


@contextlib.contextmanager
def explain_dead_worker() -> Iterator[None]:
    """Turn the death of a process that works ahead, which PyTorch tells at any moment, into an error for the user."""
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise UserError(
            f"a process that reads records ahead died ({str(error).splitlines()[0]}): for lack of memory, or in a "
            "damaged HDF5 shard that crashes the HDF5 library. Start again to go on from the last checkpoint; if it "
            "dies again, remove data_index from OUTPUT_DIR, so that every shard is checked anew"
        ) from None


def _end(worker: BaseProcess) -> None:
    """End a worker when the trainer exits: it ignores the gentler signal, for which Python would wait for ever."""
    if worker.is_alive():
        worker.kill()


def _unpack(packed_steps: Iterator[_Packed | DataError]) -> Iterator[tuple[list[RaggedBatch], list[str]]]:
    for packed in packed_steps:
        if isinstance(packed, DataError):
            raise DataError(*packed.args)  # not `packed`, whose traceback would keep itself and the workers alive
        yield [from_numpy(fields) for fields in packed[0]], packed[1]


def _as_is(packed: Any) -> Any:
    return packed


def _follow_trainer(worker: int) -> None:
    """End with the trainer, and only with it: a Ctrl-C goes to the whole process group, but it decides when to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    end_with_parent()
