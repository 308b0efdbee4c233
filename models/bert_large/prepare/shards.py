"""Text files to record files, one to one, over several processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bert_large.data.formats import FORMATS
from bert_large.errors import InputError, UserError
from bert_large.prepare.documents import read_documents
from bert_large.prepare.instances import SEPARATORS, Instance, InstanceSettings, create_instances, make_record
from bert_large.prepare.manifest import FileFacts
from bert_large.prepare.tokenizer import WordPieceTokenizer
from bert_large.prepare.vocab import Vocabulary
from bert_large.storage.atomic import replace_atomically
from bert_large.worker_processes import end_with_parent, require_semaphores


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
    """Make one shard in a format of `FORMATS`; raise `InputError` if its text is not UTF-8 or yields no records.

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
        FORMATS[output_format].write(unfinished, records, len(instances), settings.record_shape)
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
    require_semaphores()
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
    end_with_parent()
