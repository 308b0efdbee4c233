"""GLUE's files in its official layout: which there are, what their columns are called, how labels are written."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bert_large.errors import DataError, InputError
from bert_large.finetune.tsv import Row, read_rows

FIRST, SECOND, LABEL, INDEX = "first", "second", "label", "index"
"""Columns of examples: the sentence or the pair; the label's id or the score; what a submission calls the row."""
Columns = dict[str, list[Any]]
ParseLabel = Callable[[Row, str], Any]


@dataclass(frozen=True, kw_only=True)
class GlueFile:
    """One split's file."""

    split: str
    names: tuple[str, ...]
    """Paths from the task's folder; the first that is there is read."""
    texts: tuple[str, ...]
    """Columns of the sentences."""
    label: str | None = None
    index: str | None = None
    """Column of the row's number in submissions; without it rows are counted from 0."""
    header: tuple[str, ...] | None = None
    """Columns of a file that does not name them itself."""
    skip_short: bool = False
    """Leave out rows that lack fields: the official file has some."""
    optional: bool = False


def standard_files(
    texts: tuple[str, ...],
    *,
    label: str = "label",
    test_index: str = "index",
    evaluation: tuple[str, ...] = ("",),
    skip_short: bool = False,
) -> tuple[GlueFile, ...]:
    """Return train.tsv, dev….tsv and test….tsv with a header; `evaluation` are the suffixes of the latter two."""
    train = GlueFile(split="train", names=("train.tsv",), texts=texts, label=label, skip_short=skip_short)
    dev = (
        GlueFile(
            split=f"validation{suffix}", names=(f"dev{suffix}.tsv",), texts=texts, label=label, skip_short=skip_short
        )
        for suffix in evaluation
    )
    test = (
        GlueFile(split=f"test{suffix}", names=(f"test{suffix}.tsv",), texts=texts, index=test_index, optional=True)
        for suffix in evaluation
    )
    return (train, *dev, *test)


_COLA_HEADER = ("source", "label", "mark", "sentence")
COLA_FILES = (
    GlueFile(split="train", names=("train.tsv",), texts=("sentence",), label="label", header=_COLA_HEADER),
    GlueFile(split="validation", names=("dev.tsv",), texts=("sentence",), label="label", header=_COLA_HEADER),
    GlueFile(split="test", names=("test.tsv",), texts=("sentence",), index="index", optional=True),
)
DIAGNOSTIC_FILE = GlueFile(
    split="ax",
    names=("diagnostic.tsv", "../diagnostic/diagnostic.tsv", "../AX/AX.tsv", "AX.tsv"),
    texts=("sentence1", "sentence2"),
    index="index",
    optional=True,
)
_MRPC_IDS = ("#1 ID", "#2 ID")
_MRPC_TRAIN, _MRPC_TEST, _MRPC_DEV_IDS = "msr_paraphrase_train.txt", "msr_paraphrase_test.txt", "dev_ids.tsv"


def find_task_folder(data_dir: Path, folder: str) -> Path:
    """Return `data_dir`, or the task's own folder in it where it holds GLUE's folders."""
    if not data_dir.is_dir():
        raise InputError(f"--data-dir {data_dir} is no folder; give the folder of the task's files")
    return data_dir / folder if (data_dir / folder).is_dir() else data_dir


def read_files(folder: Path, files: tuple[GlueFile, ...], parse_label: ParseLabel) -> dict[str, Columns]:
    """Return the columns of every split whose file is there; those that are not optional must be."""
    found = {file.split: path for file in files if (path := _path_of(file, folder)) is not None}
    missing = [file.names[0] for file in files if file.split not in found and not file.optional]
    if missing:
        here = ", ".join(sorted(path.name for path in folder.iterdir())[:10]) or "nothing"
        raise InputError(f"--data-dir {folder} has no {' and no '.join(missing)}; found {here}")
    return {file.split: read_file(found[file.split], file, parse_label) for file in files if file.split in found}


def _path_of(file: GlueFile, folder: Path) -> Path | None:
    return next((folder / name for name in file.names if (folder / name).is_file()), None)


def read_file(path: Path, file: GlueFile, parse_label: ParseLabel) -> Columns:
    """Return the columns of one file; raise `DataError` if it has no row."""
    rows = read_rows(path, _needed(file), header=file.header, skip_short=file.skip_short)
    return _columns(path, file, rows, parse_label)


def _needed(file: GlueFile) -> tuple[str, ...]:
    return (*file.texts, *(name for name in (file.label, file.index) if name is not None))


def _columns(path: Path, file: GlueFile, rows: Iterable[Row], parse_label: ParseLabel) -> Columns:
    names = (FIRST, SECOND)[: len(file.texts)]
    columns: Columns = {name: [] for name in (*names, *([LABEL] if file.label else []), INDEX)}
    for number, row in enumerate(rows):
        for name, column in zip(names, file.texts, strict=True):
            columns[name].append(row.fields[column])
        if file.label is not None:
            columns[LABEL].append(parse_label(row, file.label))
        columns[INDEX].append(number if file.index is None else _parse_index(row, file.index))
    if not columns[INDEX]:
        raise DataError(f"{path}: found no row, expected at least one example")
    return columns


def _parse_index(row: Row, column: str) -> int:
    try:
        return int(row.fields[column])
    except ValueError:
        raise row.error(f"{column} {row.fields[column]!r}", "a whole number") from None


def read_mrpc(folder: Path, files: tuple[GlueFile, ...], parse_label: ParseLabel) -> dict[str, Columns]:
    """Read MRPC as GLUE's three files, or as its authors' two with GLUE's dev_ids.tsv.

    Those ids, a pair a line, say which rows of the authors' training file are GLUE's validation split.
    """
    original = folder / _MRPC_TRAIN
    if (folder / "train.tsv").is_file() or not original.is_file():
        return read_files(folder, files, parse_label)
    if not (folder / _MRPC_DEV_IDS).is_file():
        raise InputError(
            f"--data-dir {folder} has {_MRPC_TRAIN} but no {_MRPC_DEV_IDS}, GLUE's list of the pairs to evaluate on; "
            "put it there, or give train.tsv and dev.tsv"
        )
    train, dev, test = files
    dev_ids = {_ids(row) for row in read_rows(folder / _MRPC_DEV_IDS, _MRPC_IDS, header=_MRPC_IDS)}
    rows = list(read_rows(original, (*_MRPC_IDS, *_needed(train))))
    splits = {
        file.split: _columns(
            original, file, (row for row in rows if (_ids(row) in dev_ids) == (file is dev)), parse_label
        )
        for file in (train, dev)
    }
    return splits | read_files(folder, (replace(test, names=(_MRPC_TEST,), index=None),), parse_label)


def _ids(row: Row) -> tuple[str, ...]:
    return tuple(row.fields[name] for name in _MRPC_IDS)
