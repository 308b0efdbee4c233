"""Text files to record files, one to one, over several processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bert_large.data import hdf5
from bert_large.data.record import Record, RecordShape
from bert_large.data.tfrecord import encode_record, write_records
from bert_large.errors import InputError, UserError
from bert_large.prepare.documents import read_documents
from bert_large.prepare.instances import SEPARATORS, Instance, InstanceSettings, create_instances, make_record
from bert_large.prepare.manifest import FileFacts
from bert_large.prepare.tokenizer import WordPieceTokenizer
from bert_large.prepare.vocab import Vocabulary
from bert_large.storage.atomic import replace_atomically


def _write_tfrecord_shard(path: Path, records: Iterable[Record], count: int, shape: RecordShape) -> None:
    with path.open("wb") as file:
        write_records(file, (encode_record(record, shape) for record in records))


# Each takes the path, the records, their number and their shape.
WRITERS: dict[str, Callable[[Path, Iterable[Record], int, RecordShape], None]] = {
    "tfrecord": _write_tfrecord_shard,
    "hdf5": hdf5.write_shard,
}


@dataclass(frozen=True, slots=True)
class ShardTask:
    """A text file and the record file to make of it."""

    input_file: Path
    output_file: Path


@dataclass(frozen=True, slots=True)
class ShardReport:
    """What was made of one text file; `tokens` counts those of the records, without padding."""

    task: ShardTask
    output: FileFacts
    documents: int
    records: int
    tokens: int
    seconds: float


def write_shard(
    task: ShardTask,
    vocabulary: Vocabulary,
    settings: InstanceSettings,
    *,
    do_lower_case: bool,
    output_format: str = "tfrecord",
) -> ShardReport:
    """Make one shard in a format of `WRITERS`; raise `InputError` if its text is not UTF-8 or yields no records.

    The text's tokens and the instances' masks are in memory at once, the records are not.
    """
    start = time.perf_counter()
    documents = read_documents(task.input_file, WordPieceTokenizer(vocabulary, do_lower_case=do_lower_case))
    instances = create_instances(documents, vocabulary, settings)
    if not instances:
        raise InputError(
            f"{task.input_file}: found no sentences in {task.input_file.stat().st_size} bytes, expected one a line; "
            "mend or remove the file"
        )
    records = (make_record(instance, documents, vocabulary) for instance in instances)
    with replace_atomically(task.output_file) as unfinished:
        WRITERS[output_format](unfinished, records, len(instances), settings.record_shape)
        output = FileFacts.of(unfinished)
    tokens = sum(map(_count_tokens, instances))
    seconds = time.perf_counter() - start
    return ShardReport(task, output, len(documents.boundaries), len(instances), tokens, seconds)


def write_shards(
    tasks: Sequence[ShardTask],
    vocabulary: Vocabulary,
    settings: InstanceSettings,
    *,
    do_lower_case: bool,
    workers: int,
    output_format: str = "tfrecord",
) -> Iterator[ShardReport]:
    """Make shards in `workers` processes and yield a report of each when it is done.

    The records do not depend on `workers`. At the first error no further shard is begun, and the error is raised when
    those under way are done. Raises `UserError` if a process is killed.
    """
    if not tasks:
        return
    # Not forked: the caller may have threads (a progress bar's, PyTorch's), and a fork would copy their locks.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(tasks)), context, initializer=_start_worker) as pool:
        make = partial(write_shard, do_lower_case=do_lower_case, output_format=output_format)
        futures = [pool.submit(make, task, vocabulary, settings) for task in tasks]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            raise UserError(
                f"a process was killed, perhaps for want of memory with {workers} at work; "
                "run again with fewer --workers, or split the text into smaller files"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _count_tokens(instance: Instance) -> int:
    pair = instance.pair
    return pair.a_stop - pair.a_start + pair.b_stop - pair.b_start + SEPARATORS


def _start_worker() -> None:
    """Make this process one core's worth of work that ends with its parent."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    # Ctrl-C reaches every process of the terminal; the parent reports it, the workers end without a word.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    """Wait for the parent's end: a killed parent cannot tell its workers, which would wait for tasks for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
