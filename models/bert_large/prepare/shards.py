"""Text files to record files, one of each, in several processes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from pathlib import Path

from bert_large.data.formats import FORMATS
from bert_large.errors import InputError
from bert_large.prepare.casing import Casing
from bert_large.prepare.documents import read_documents
from bert_large.prepare.instances import create_instances, make_record
from bert_large.prepare.settings import InstanceSettings
from bert_large.prepare.tokenizer import WordPieceTokenizer
from bert_large.prepare.vocab import Vocabulary
from bert_large.storage.atomic import replace_atomically
from bert_large.storage.integrity import FileFacts, facts_of
from bert_large.worker_processes import worker_pool


@dataclass(frozen=True, slots=True)
class ShardTask:
    """A text file and the record file to make from it."""

    input_file: Path
    output_file: Path


@dataclass(frozen=True, slots=True)
class ShardReport:
    """The record file made from one text file."""

    task: ShardTask
    output: FileFacts
    documents: int
    records: int
    tokens: int
    """Tokens of all records, without padding."""
    text_tokens: int
    """Tokens of the text."""
    unknown_tokens: int
    """Tokens of the text that are [UNK]."""
    seconds: float


def write_shard(
    task: ShardTask,
    vocabulary: Vocabulary,
    settings: InstanceSettings,
    casing: Casing,
    output_format: str = "tfrecord",
) -> ShardReport:
    """Make one shard in a format of `FORMATS`; raise `InputError` if its text is not UTF-8 or yields no records.

    The tokens of the text and the masks of all instances are in memory, but only one record at a time.
    """
    start = time.perf_counter()
    tokenizer = WordPieceTokenizer(vocabulary, **casing.letters)
    documents = read_documents(task.input_file, tokenizer.encode)
    instances = create_instances(documents, vocabulary, settings)
    if not instances:
        raise InputError(
            f"{task.input_file}: found no sentences in {task.input_file.stat().st_size} bytes, expected one per line; "
            "fix or delete the file"
        )
    records = (make_record(instance, documents, vocabulary) for instance in instances)
    with replace_atomically(task.output_file) as unfinished:
        FORMATS[output_format].write(unfinished, records, len(instances), settings.record_shape)
        output = facts_of(unfinished)
    return ShardReport(
        task,
        output,
        documents=len(documents.boundaries),
        records=len(instances),
        tokens=sum(instance.text.length for instance in instances),
        text_tokens=len(documents.tokens),
        unknown_tokens=int((documents.tokens == vocabulary.unk_id).sum()),
        seconds=time.perf_counter() - start,
    )


def write_shards(
    tasks: Sequence[ShardTask],
    vocabulary: Vocabulary,
    settings: InstanceSettings,
    casing: Casing,
    *,
    workers: int,
    output_format: str = "tfrecord",
) -> Iterator[ShardReport]:
    """Make shards in `workers` processes and yield a report of each when it is complete.

    The records do not depend on `workers`. After an error no further shard is started, and the error is raised when the
    shards in progress are complete. Raises `UserError` if a process is killed.
    """
    if not tasks:
        return
    with worker_pool(min(workers, len(tasks)), ", or split the text into smaller files") as pool:
        futures = [pool.submit(write_shard, task, vocabulary, settings, casing, output_format) for task in tasks]
        for future in as_completed(futures):
            yield future.result()
