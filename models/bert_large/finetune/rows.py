"""Rows of tab-separated and comma-separated files, with the place of each for messages.

The CSV reader of `datasets` (pandas) is not used: it fills missing fields of short rows, and neither its own errors nor
those found later in labels can name the row of the file.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bert_large.errors import DataError
from bert_large.finetune.data_files import read_lines
from bert_large.log import LOGGER
from bert_large.prepare.text_files import MAX_LINE_BYTES


@dataclass(frozen=True)
class Row:
    """One row: its fields by the names in the header, and its place."""

    path: Path
    line: int
    fields: dict[str, str]

    def error(self, found: str, expected: str) -> DataError:
        """Return the error that describes what is wrong with this row."""
        return DataError(f"{self.path}: line {self.line}: found {found}, expected {expected}")


def read_rows(
    path: Path, columns: Sequence[str], *, header: Sequence[str] | None = None, skip_short: bool = False
) -> Iterator[Row]:
    """Yield the rows of a file, which must have all `columns`; blank lines are skipped.

    A file `….csv` has quoting; in any other, tabs separate fields and quotes are text, as in GLUE's files. `header` has
    the names of the fields in a file whose first line is already a row. Fields beyond the header are discarded. Several
    columns with the name of one of `columns` raise `DataError`, and so does a row that ends before the last of them;
    with `skip_short`, the row is discarded, and the number of such rows is logged.
    """
    names, skipped = header, 0
    for number, fields in _fields(path):
        if names is None:
            names = fields
            if missing := [name for name in columns if name not in names]:
                raise DataError(
                    f"{path}: line {number}: found the columns {', '.join(fields)}, expected {', '.join(columns)} "
                    f"among them ({', '.join(missing)} missing)"
                )
            if repeated := [name for name in columns if fields.count(name) > 1]:
                raise DataError(
                    f"{path}: line {number}: found {fields.count(repeated[0])} columns {repeated[0]!r}, expected one; "
                    "rename or delete the others"
                )
            continue
        row = Row(path, number, dict(zip(names, fields, strict=False)))
        if all(name in row.fields for name in columns):
            yield row
        elif skip_short:
            skipped += 1
        else:
            raise row.error(f"{len(fields)} field{'s' * (len(fields) != 1)}", f"{len(names)}: {', '.join(names)}")
    if names is None:
        raise DataError(f"{path}: line 1: found an empty file, expected the columns {', '.join(columns)}")
    if skipped:
        LOGGER.info("%s: %d rows that lack columns are skipped", path, skipped)


def column_names(path: Path) -> list[str]:
    """Return the columns that the header of a file names; none of an empty file."""
    return next((fields for _, fields in _fields(path)), [])


def _fields(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the number of the line in which each record ends, and the record's fields."""
    if path.suffix != ".csv":
        yield from ((number, line.split("\t")) for number, line in read_lines(path) if line)
        return
    csv.field_size_limit(MAX_LINE_BYTES)  # of the whole process; the default is 128 KiB
    reader = csv.reader((f"{line}\n" for _, line in read_lines(path)), strict=True)
    try:
        yield from ((reader.line_num, fields) for fields in reader if fields)
    except csv.Error as error:
        raise DataError(f"{path}: line {reader.line_num}: {error}; expected comma-separated values") from None
