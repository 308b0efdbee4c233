"""A fixed number of records, evenly spread over record files: MLCommons' way to make the evaluation set."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path

from bert_large.data.formats.tfrecord import decode_record, iterate_payloads, read_payload, write_records
from bert_large.data.record import RecordShape
from bert_large.errors import DataError, InputError
from bert_large.storage.atomic import write_atomically


def pick_records(
    input_files: Sequence[Path], output_file: Path, count: int, *, allow_fewer: bool = False
) -> tuple[int, int]:
    """Write `count` of the files' records, in order, to `output_file`; return how many, and of how many.

    Raises `InputError` if there are none, or fewer than `count` unless `allow_fewer`, and `DataError` for damaged files
    or records of two shapes.
    """
    if count < 1:
        raise InputError(f"--count is {count}, expected at least 1")
    offsets = [array("Q", (offset for offset, _ in iterate_payloads(path))) for path in input_files]
    total = sum(map(len, offsets))
    if allow_fewer:
        count = min(count, total)
    if not total or total < count:
        raise InputError(f"--count is {count}, but the {len(input_files)} input files have {total} records")
    with write_atomically(output_file) as file:
        write_records(file, _read(input_files, offsets, picked_indices(total, count)))
    return count, total


def picked_indices(total: int, count: int) -> list[int]:
    """Return which of `total` records are picked.

    The quotient is rounded before it is multiplied, as in MLCommons' picker: now and then that gives one less than
    `i * total // count`.
    """
    ratio = total / count
    return [int(i * ratio) for i in range(count)]


def _read(paths: Sequence[Path], offsets: Sequence[array[int]], indices: Sequence[int]) -> Iterator[bytes]:
    """Yield the payloads at `indices` into all files' records, each checked against the first one's shape."""
    ends = list(accumulate(map(len, offsets)))
    expected: RecordShape | None = None
    for index in indices:
        number = bisect_right(ends, index)
        path, offset = paths[number], offsets[number][index - ends[number]]  # counted from the file's end
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
