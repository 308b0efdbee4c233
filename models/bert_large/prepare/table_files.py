"""Tables with a column of text: CSV, TSV and Parquet."""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

from bert_large.errors import InputError
from bert_large.extras import import_extra
from bert_large.prepare.compressed import open_decompressed
from bert_large.prepare.text_encoding import ANY_LINE_END, Replaced, read_text
from bert_large.prepare.text_files import MAX_LINE_BYTES

PARQUET_MAGIC = b"PAR1"
_DELIMITERS = (",", "\t", ";", "|")
_SAMPLE_LINES = 1000
_QUOTED = re.compile(r'"((?:[^"]|"")*)"')
_NAME = re.compile(r"[\w.:/-]*( [\w.:/()-]+){0,2}")
"""A name of a column, which is not a part of a sentence: three words at most."""
_ROWS_AT_ONCE = 64
_MOST_NAMES = 20


def iterate_delimited(path: Path, field: str, encoding: str, replaced: Replaced) -> Iterator[str]:
    """Yield the cells of a column of a CSV or TSV file, with quotes removed; cells may hold line feeds.

    `field` is the name of the column in the first row; if no column has this name and it is a number, the file has no
    such row, and columns count from 1. The delimiter is a comma, tab, semicolon or bar, as the first row shows. Raises
    `InputError` if the column is missing or repeated, and for a row with another number of columns.
    """
    lines = read_text(path, encoding, replaced, newline=ANY_LINE_END)
    start = list(itertools.islice(lines, _SAMPLE_LINES))
    delimiter, column, columns, has_header = _find_column(path, start, field)
    is_quoted = delimiter != "\t" or any(line.strip() and line.count("\t") != columns - 1 for line in start)
    rows = csv.reader(
        itertools.chain(start, lines),
        delimiter=delimiter,
        quoting=csv.QUOTE_MINIMAL if is_quoted else csv.QUOTE_NONE,
        strict=True,
    )
    try:
        for row in rows:
            if not row:
                continue
            if len(row) != columns:
                raise InputError(
                    f"{path}: line {rows.line_num}: found {len(row)} columns, expected {columns} as in the first row; "
                    "fix or delete the row"
                )
            if has_header:
                has_header = False
                continue
            cell = row[column]
            quoted = None if is_quoted else _QUOTED.fullmatch(cell)
            yield quoted[1].replace('""', '"') if quoted else cell
    except csv.Error as error:
        raise InputError(f"{path}: line {rows.line_num}: not a valid row of a table: {error}; fix the row") from None


def check_column(path: Path, field: str, encoding: str) -> None:
    """Raise `InputError` if a CSV or TSV file has no column `field`, or several."""
    lines = read_text(path, encoding, newline=ANY_LINE_END)
    _find_column(path, list(itertools.islice(lines, _SAMPLE_LINES)), field)


def names_column(line: str, field: str) -> bool:
    """Return whether a line has several cells with names, one of which is `field`, as in the first row of a table."""
    for delimiter in _DELIMITERS:
        cells = [cell.strip() for rows in _parse([line], delimiter) for cell in rows]
        if len(cells) > 1 and field in cells and all(map(_NAME.fullmatch, cells)):
            return True
    return False


def _find_column(path: Path, lines: Sequence[str], field: str) -> tuple[str, int, int, bool]:
    """Return the delimiter, the index of the column, the number of columns and whether the first row names them."""
    lines = list(itertools.dropwhile(lambda line: not line.strip(), lines))
    tables = {delimiter: _parse(lines, delimiter) or [[]] for delimiter in _DELIMITERS}
    for delimiter, rows in tables.items():
        names = [name.strip() for name in rows[0]]
        if field in names:
            _refuse_repeated(path, "line 1", field, names)
            return delimiter, names.index(field), len(names), True

    def evenness(delimiter: str) -> tuple[bool, int]:
        counts = [len(row) for row in tables[delimiter]]
        return min(counts) == max(counts) > 1, counts[0]

    delimiter = max(tables, key=evenness)
    row = tables[delimiter][0]
    if field.isascii() and field.isdigit() and 0 < int(field) <= len(row):
        return delimiter, int(field) - 1, len(row), False
    raise missing_field(path, "line 1", "column", field, row)


def _parse(lines: Sequence[str], delimiter: str) -> list[list[str]]:
    """Return the rows of the start of a table, without the last of several, which may be incomplete."""
    csv.field_size_limit(MAX_LINE_BYTES)  # of the whole process; the default is 128 KiB
    rows = []
    with contextlib.suppress(csv.Error):  # reading the whole file reports it with its line
        for row in csv.reader(lines, delimiter=delimiter):
            rows += [row] if row else []
    return rows[:-1] if len(rows) > 1 else rows


def _refuse_repeated(path: Path, place: str, field: str, names: Sequence[str]) -> None:
    """Raise `InputError` if several columns have the name of the one with the text."""
    if (count := names.count(field)) > 1:
        raise InputError(f"{path}: {place}: found {count} columns {field!r}, expected one; rename or delete the others")


def missing_field(path: Path, place: str, kind: str, field: str, found: Sequence[str]) -> InputError:
    """Return the error for a text without the column or field that holds it, with those that were found."""
    names = ", ".join(repr(name[:40]) for name in found[:_MOST_NAMES]) or "none"
    more = f" and {len(found) - _MOST_NAMES} more" if len(found) > _MOST_NAMES else ""
    return InputError(
        f"{path}: {place}: found the {kind}s {names}{more}, expected a {kind} {field!r} with the text; give "
        "--text-field, or delete it"
    )


def iterate_parquet(path: Path, field: str) -> Iterator[str | None]:
    """Yield the cells of a column of text of a Parquet file, None for nulls. A few rows are in memory at a time.

    Raises `InputError` if the column is missing or repeated, it is not text, or the file is damaged.
    """
    pyarrow = _import_pyarrow(path)
    row = 0
    try:
        with _seekable(path) as file:
            table = pyarrow.parquet.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False)
            _check_type(path, field, table.schema_arrow, pyarrow.types)
            for batch in table.iter_batches(batch_size=_ROWS_AT_ONCE, columns=[field], use_threads=False):
                for cell in batch.column(0).to_pylist():
                    row += 1
                    yield cell
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"{path}: row {row + 1}: not a valid Parquet file ({reason}); it is damaged or truncated, get it again"
        ) from None


def count_rows(path: Path) -> int:
    """Return the number of rows of a Parquet file that `check_parquet` has accepted."""
    with _seekable(path) as file:
        return int(_import_pyarrow(path).parquet.ParquetFile(file).metadata.num_rows)


def check_parquet(path: Path, field: str) -> None:
    """Raise `InputError` if a Parquet file has no column of text `field`, or several."""
    with contextlib.closing(iterate_parquet(path, field)) as cells:  # type: ignore[type-var]  # a generator
        next(cells, None)


def _check_type(path: Path, field: str, schema: Any, types: Any) -> None:
    if field not in schema.names:
        raise missing_field(path, "row 1", "column", field, schema.names)
    _refuse_repeated(path, "row 1", field, schema.names)
    kind = schema.field(field).type
    text = kind.value_type if types.is_dictionary(kind) else kind
    accepted = (types.is_string, types.is_large_string, types.is_string_view, types.is_null)
    if not any(is_kind(text) for is_kind in accepted):
        raise InputError(
            f"{path}: row 1: the column {field!r} is of type {kind}, expected string; give --text-field, or convert it"
        )


@contextlib.contextmanager
def _seekable(path: Path) -> Iterator[BinaryIO]:
    """Open a Parquet file; if it is compressed as a whole, it is decompressed to a temporary file, as readers seek."""
    with open_decompressed(path) as file:
        if isinstance(file, io.BufferedReader) and isinstance(file.raw, io.FileIO):
            yield file
            return
        with tempfile.TemporaryFile() as copy:
            shutil.copyfileobj(file, copy)
            copy.seek(0)
            yield cast(BinaryIO, copy)


def _import_pyarrow(path: Path) -> Any:
    return import_extra(f"{path}: Parquet", "text", "pyarrow", "pyarrow.parquet")
