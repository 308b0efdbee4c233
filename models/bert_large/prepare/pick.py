"""A fixed number of records, evenly spread over record files: MLCommons' way to make the evaluation set."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path

from bert_large.data.folders import is_shard_name, list_shards
from bert_large.data.formats.tfrecord import FORMAT, decode_record, iterate_payloads, read_payload, write_records
from bert_large.data.record import RecordShape
from bert_large.errors import DataError, InputError
from bert_large.prepare.text_files import check_outputs
from bert_large.storage.atomic import write_atomically
from bert_large.storage.output_folder import make_folder


def pick_records(
    input_dir: Path,
    output_file: Path,
    count: int,
    *,
    allow_fewer: bool = False,
    overwrite: bool = False,
) -> str:
    """Write `count` records of a folder's shards, in order, to `output_file`; return a summary.

    Raises `InputError` if there are none, or fewer than `count` without `allow_fewer`, or if the output exists, and
    `DataError` for damaged files or records of different shapes.
    """
    if not is_shard_name(output_file.name, FORMAT.name):
        raise InputError(
            f"--output-file {output_file} has a name that training would not read as a {FORMAT.name} file; choose "
            "another, such as eval_records"
        )
    files = list_shards(input_dir)
    check_outputs([output_file], input_dir=input_dir, overwrite=overwrite)
    offsets = [array("Q", (offset for offset, _ in iterate_payloads(path))) for path in files]
    total = sum(map(len, offsets))
    picked = min(count, total) if allow_fewer else count
    if not total or total < picked:
        raise InputError(f"--count is {count}, but the {len(files)} files of {input_dir} have {total} records")
    make_folder(output_file.parent)
    with write_atomically(output_file) as file:
        write_records(file, _read(files, offsets, picked_indices(total, picked)))
    return f"wrote {picked} of {total} records to {output_file}"


def picked_indices(total: int, count: int) -> list[int]:
    """Return which of `total` records are picked.

    The quotient is rounded before the multiplication, as in MLCommons' picker; sometimes the result is one less than
    `i * total // count`.
    """
    ratio = total / count
    return [int(i * ratio) for i in range(count)]


def _read(paths: Sequence[Path], offsets: Sequence[array[int]], indices: Sequence[int]) -> Iterator[bytes]:
    """Yield the payloads at `indices` into the records of all files; all must have the shape of the first."""
    ends = list(accumulate(map(len, offsets)))
    expected: RecordShape | None = None
    for index in indices:
        number = bisect_right(ends, index)
        path, offset = paths[number], offsets[number][index - ends[number]]  # a negative index, from the file's end
        with path.open("rb") as file:
            payload = read_payload(file, path, offset)
        try:
            _, shape = decode_record(payload)
        except ValueError as error:
            raise DataError(f"{path}: byte {offset}: {error}") from error
        expected = expected or shape
        if shape != expected:
            raise DataError(f"{path}: byte {offset}: found {shape}, expected {expected} as in {paths[0]}")
        yield payload
