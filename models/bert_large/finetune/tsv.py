"""Tab-separated files as GLUE has them: quotes mean nothing, a line feed alone ends a row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bert_large.errors import DataError


@dataclass(frozen=True)
class Row:
    """One row: its fields by the header's names, and where it stands, for messages."""

    path: Path
    line: int
    fields: dict[str, str]

    def error(self, found: str, expected: str) -> DataError:
        """Return the error that says what is wrong with this row."""
        return DataError(f"{self.path}: line {self.line}: found {found}, expected {expected}")


def read_rows(
    path: Path, columns: Sequence[str], *, header: Sequence[str] | None = None, skip_short: bool = False
) -> Iterator[Row]:
    """Yield the rows of a file, which must have all `columns`; blank lines are passed over.

    `header`: the names of the fields in a file whose first line is a row already. Fields beyond the header's are left
    out. A row that ends before the last of `columns` is a `DataError`, or with `skip_short` left out; the log
    then says how many are.
    """
    names, skipped = header, 0
    for number, line in _numbered_lines(path):
        fields = line.split("\t")
        if names is None:
            missing = [name for name in columns if name not in fields]
            if missing:
                raise DataError(
                    f"{path}: line {number}: found the columns {', '.join(fields)}, expected {', '.join(columns)} "
                    f"among them ({', '.join(missing)} missing)"
                )
            names = fields
            continue
        row = Row(path, number, dict(zip(names, fields, strict=False)))
        if all(name in row.fields for name in columns):
            yield row
        elif skip_short:
            skipped += 1
        else:
            raise row.error(f"{len(fields)} fields", f"{len(names)}: {', '.join(names)}")
    if names is None:
        raise DataError(f"{path}: line 1: found an empty file, expected the columns {', '.join(columns)}")
    if skipped:
        from bert_large.log import LOGGER

        LOGGER.info("%s: %d rows that lack columns are left out", path, skipped)


def _numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield lines and their numbers, from 1, without line ends and a byte order mark."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
                except UnicodeDecodeError as error:
                    raise DataError(
                        f"{path}: line {number}: found the byte {line[error.start]:#04x}, expected UTF-8; convert the "
                        "file, for example with `iconv -t UTF-8`"
                    ) from None
                if text:
                    yield number, text
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; expected a tab-separated file") from None
