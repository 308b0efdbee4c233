"""The texts of a file: one per line, or one per row of JSON Lines, CSV or TSV."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from bert_large.errors import DataError, InputError
from bert_large.finetune.data_files import read_lines
from bert_large.finetune.rows import read_rows
from bert_large.inference.settings import FIELD

STANDARD_INPUT = "-"


def read_texts(source: str, field: str | None = None) -> Iterator[str]:
    """Yield the texts of a file in their order; `-` is standard input, one text per line.

    Every line of a text file is a text, blank ones too. In files `….jsonl`, `….csv` and `….tsv`, the texts are in
    `field`, and blank lines are skipped. Raises `DataError` for a row without the field, or if there is no text, and
    `InputError` for a field of a file without fields.
    """
    path = Path("/dev/stdin" if source == STANDARD_INPUT else source)
    if path.suffix == ".jsonl":
        texts = _from_json_lines(path, field or FIELD)
    elif path.suffix in (".csv", ".tsv"):
        texts = (row.fields[field or FIELD] for row in read_rows(path, (field or FIELD,)))
    elif field is not None:
        raise InputError(f"--field is {field!r}, but {source} has no fields; expected a file .jsonl, .csv or .tsv")
    else:
        texts = (text for _, text in read_lines(path))
    has_text = False
    for text in texts:
        yield text
        has_text = True
    if not has_text:
        raise DataError(f"{source} has no text, expected at least one")


def _from_json_lines(path: Path, field: str) -> Iterator[str]:
    for number, line in read_lines(path):
        if not line.strip():
            continue
        try:
            text = json.loads(line)[field]
        except (ValueError, KeyError, TypeError, IndexError, RecursionError):
            text = None
        if not isinstance(text, str):
            raise DataError(f"{path}: line {number}: found {line[:60]!r}, expected an object with a text in {field!r}")
        yield text.encode(errors="replace").decode()  # JSON can name halves of characters, which are not text
