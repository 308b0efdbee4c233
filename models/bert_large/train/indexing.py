"""The part of the index that is made while a run trains, and the checks of records that belong to it.

A run starts when the first window of its records is indexed (`data.windows`). A process of low priority indexes the
others, in the order in which training needs them. If training needs a window before that, the data workers index it
themselves. A bad record is therefore reported when it is found, and at the latest before the run trains on its window.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from bert_large.data.dataset import Dataset
from bert_large.data.index import crash_error, make_index
from bert_large.data.loader import StepBatches
from bert_large.data.record import BadRecordError, BadRecords
from bert_large.distributed.collectives import Ranks
from bert_large.errors import DamageError, DataError, InputError, UserError
from bert_large.log import LOGGER
from bert_large.observe.progress import Progress
from bert_large.storage.atomic import read_json, write_json
from bert_large.worker_processes import end_with_parent, require_semaphores

WINDOWS_FILE = "data_windows.json"
"""File in the output folder: the digest of every window that the run has opened."""
_NICENESS = 10
"""A tenth of the time of a core that is busy training. A lower priority would find bad records much later."""
_STOP_SECONDS = 5.0
"""How long to wait for the process to delete its unfinished files."""
_CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGFPE)


def open_first_step(batches: StepBatches, step: int, ranks: Ranks) -> None:
    """Index and open the windows up to the end of a step (from 0): local rank 0 of each host indexes in parallel."""
    dataset, last = batches.dataset, batches.samples(step)[1] - 1
    with Progress(0, "shard", visible=ranks.is_main, listener=ranks.note) as progress, ranks.failing_together():

        def on_shard(done: int, total: int) -> None:
            progress.within(f"checking the records of step {step + 1}: {done} of {total} new shards")

        if ranks.local_rank == 0:
            while len(dataset) <= last and dataset.open_windows < dataset.window_count:
                dataset.build_indexes(dataset.open_windows, on_shard)
                dataset.window_end(dataset.open_windows)
    with ranks.failing_together():
        batches.order.epoch_of(last)


class BackgroundIndexing:
    """A process of low priority that indexes the shards of the windows that are not open yet."""

    def __init__(self, dataset: Dataset) -> None:
        require_semaphores()
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe(duplex=False)
        paths = list(dataset.paths[len(dataset.shards) :])
        how = (dataset.index_dir, dataset.limits, dataset.max_bad_records)
        self._process = context.Process(target=_index_all, args=(paths, how, theirs), daemon=True)
        self._process.start()
        theirs.close()
        self._shard: Path | None = None

    def raise_error(self) -> None:
        """Raise the error that the process has found in the records, if any.

        An index that could not be written, or a process that was killed, is only logged: the data workers index what
        training needs.
        """
        if self._connection.closed:
            return
        with contextlib.suppress(EOFError):
            while self._connection.poll():
                message = self._connection.recv()
                if isinstance(message, DataError):
                    raise message
                if isinstance(message, UserError):
                    LOGGER.warning("warning: indexing in the background stopped: %s", message)
                    self.close()
                    return
                self._shard = message
            return
        self._process.join()
        if self._process.exitcode in {-number for number in _CRASHES} and self._shard is not None:
            raise crash_error(self._shard)
        if self._process.exitcode:
            LOGGER.warning("warning: the process that indexes in the background died; data workers index instead")
        self.close()

    def close(self) -> None:
        """End the process; shards that it has finished stay indexed."""
        self._process.terminate()
        self._process.join(_STOP_SECONDS)
        self._process.kill()
        self._process.join()
        self._connection.close()


def _index_all(paths: Sequence[Path], how: tuple, connection: Connection) -> None:
    """Run in the process: index shards one after another; send each one's path before it, and the first error."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of the terminal
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit())  # deletes the lock and the temporary file
    end_with_parent()
    os.nice(_NICENESS)
    try:
        for path in paths:
            connection.send(path)
            make_index(path, *how, wait=False)
    except UserError as error:
        connection.send(error)


@contextlib.contextmanager
def background_indexing(dataset: Dataset, ranks: Ranks, *, wanted: bool) -> Iterator[BackgroundIndexing | None]:
    """Index the remaining windows in the background while the block runs, on one rank of each host."""
    indexing = None
    if wanted and ranks.local_rank == 0 and not dataset.is_indexed():
        indexing = BackgroundIndexing(dataset)
    try:
        yield indexing
    finally:
        if indexing is not None:
            indexing.close()


class RecordChecks:
    """The checks of records on all ranks, when the data of a step have arrived.

    They count the bad records that the ranks skipped, raise errors that indexing in the background found, and compare
    the records of every new window between ranks, and with those that the run trained on before it was interrupted.
    """

    def __init__(
        self, batches: StepBatches, ranks: Ranks, bad_records: list[str], background: BackgroundIndexing | None,
        windows_file: Path | None,
    ) -> None:  # fmt: skip
        """`bad_records` receives the messages of the loader; without `windows_file` digests are not kept."""
        self._batches, self._ranks = batches, ranks
        self._found, self._background = bad_records, background
        self._known = batches.dataset.count_bad_records(batches.max_bad_records)
        self._file = windows_file if batches.dataset.window_count > 1 and ranks.is_main else None
        self._checked = 0

    def __call__(self, step: int) -> None:
        """Check the records of a step (from 0)."""
        if self._background is not None:
            self._background.raise_error()
        note_bad_records(self._ranks, self._known, self._found)
        dataset = self._batches.dataset
        last, needed = self._batches.samples(step)[1] - 1, max(self._checked, 1)
        while needed < dataset.window_count and dataset.window_end(needed - 1) <= last:
            needed += 1
        if needed == self._checked:
            return
        dataset.window_end(needed - 1)
        digests = [dataset.window_digest(window) for window in range(needed)]
        new = range(self._checked, needed)
        self._ranks.require_agreement({f"records of window {window + 1}": digests[window] for window in new})
        with self._ranks.failing_together():
            if self._file is not None:
                _compare_digests(self._file, digests, dataset)
        self._checked = needed


def _compare_digests(file: Path, digests: list[str], dataset: Dataset) -> None:
    """Compare the digests of the first windows with those in the file, and add new ones."""
    known = read_json(file).get("windows") if file.exists() else []
    if not isinstance(known, list):
        raise DamageError(f"{file} is damaged: it has no list of windows; delete it")
    for window, (found, expected) in enumerate(zip(digests, known, strict=False)):
        if found != expected:
            first, last = dataset.ends[window - 1] if window else 0, dataset.ends[window] - 1
            raise InputError(
                f"the records of {dataset.paths[first]} … {dataset.paths[last].name} are not those that this run "
                f"trained on: their digest was {expected}, is {found}. Restore them, or give an empty OUTPUT_DIR"
            )
    if len(digests) > len(known):
        write_json(file, {"windows": digests})


def note_bad_records(ranks: Ranks, known: BadRecords, found: list[str]) -> None:
    """Count and log the records that any rank has `found` to have become bad since they were indexed."""
    if known.most == 0 or not ranks.any(bool(found)):
        return
    texts = [text for texts in ranks.gather(found) for text in texts]
    found.clear()
    with ranks.failing_together():
        for text in texts:
            if known.add(BadRecordError(text)) and ranks.is_main:
                LOGGER.warning("bad record skipped: %s; the next good record of its shard replaces it", text)
