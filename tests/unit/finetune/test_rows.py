"""Tab-separated and comma-separated files: quotes, line numbers, and errors that name the line."""

from __future__ import annotations

import csv
import gzip
import os
import threading
from pathlib import Path

import pytest
from bert_large.errors import DataError, InputError
from bert_large.finetune.rows import column_names, read_rows
from bert_large.log import LOGGER


def write(tmp_path: Path, text: str | bytes, name: str = "train.tsv") -> Path:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_quotes_and_other_line_ends_are_text_in_tsv(tmp_path: Path) -> None:
    path = write(tmp_path, "\ufeffa\tb\r\n\"one\t'two\r\n\n\x85x\u2028\ty\rz\textra\n")
    rows = list(read_rows(path, ("a", "b")))
    assert [(row.line, row.fields) for row in rows] == [
        (2, {"a": '"one', "b": "'two"}),
        (4, {"a": "\x85x\u2028", "b": "y\rz"}),
    ]
    assert column_names(path) == ["a", "b"]


def test_quotes_enclose_fields_in_csv(tmp_path: Path) -> None:
    path = write(tmp_path, '\ufefftext,label\r\n"one, ""two""\nthree",x\r\nfour,y\r\n', "train.csv")
    assert [(row.line, row.fields) for row in read_rows(path, ("text", "label"))] == [
        (3, {"text": 'one, "two"\nthree', "label": "x"}),
        (4, {"text": "four", "label": "y"}),
    ]


def test_large_cells_in_csv(tmp_path: Path) -> None:
    """The reader of Python has a limit of 128 KiB by default, which other tests in this process may have raised."""
    before = csv.field_size_limit(131_072)
    try:
        (row,) = read_rows(write(tmp_path, f"text\n{'x' * 200_000}\n", "train.csv"), ("text",))
    finally:
        csv.field_size_limit(before)
    assert len(row.fields["text"]) == 200_000


def test_a_file_without_header(tmp_path: Path) -> None:
    (row,) = read_rows(write(tmp_path, "1\t2\n"), ("b",), header=("a", "b"))
    assert (row.line, row.fields) == (1, {"a": "1", "b": "2"})


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("train.tsv", "", 1),
        ("train.tsv", "a\tc\n1\t2\n", 1),
        ("train.tsv", "a\tb\n1\t2\n3\n", 3),
        ("train.tsv", b"a\tb\n1\t2\xff\n", 2),
        ("train.csv", 'a,b\n1,2\n3,"4\n', 3),
        ("train.csv", "a,b\n1\n", 2),
        ("train.csv", "a,b,a\n1,2,3\n", 1),
        ("train.tsv", "b\tb\ta\n1\t2\t3\n", 1),
    ],
)
def test_errors_name_file_and_line(tmp_path: Path, name: str, text: str | bytes, line: int) -> None:
    path = write(tmp_path, text, name)
    with pytest.raises(InputError) as error:
        list(read_rows(path, ("a", "b")))
    assert str(error.value).startswith(f"{path}: line {line}: ")


def test_only_a_repeated_column_that_is_read_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path, "a\tb\ta\n1\t2\t3\n")
    assert [row.fields["b"] for row in read_rows(path, ("b",))] == ["2"]
    with pytest.raises(DataError, match=f"^{path}: line 1: .* 2 columns 'a'"):
        list(read_rows(path, ("b", "a")))


def test_short_rows_are_skipped_on_request(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LOGGER, "propagate", True)  # a command that ran before in this process turns it off
    caplog.set_level("INFO", LOGGER.name)
    path = write(tmp_path, "a\tb\n1\n2\t3\n")
    assert [row.fields["b"] for row in read_rows(path, ("a", "b"), skip_short=True)] == ["3"]
    (message,) = caplog.messages
    assert str(path) in message and "1" in message


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "none.tsv", tmp_path, tmp_path / ("x" * 300)):
        with pytest.raises(InputError) as error:
            list(read_rows(path, ("a",)))
        assert str(error.value).startswith(f"{path} ")


def test_compressed_files_and_pipes_are_read(tmp_path: Path) -> None:
    content = "\ufeffa\tb\n1\t2\n".encode()
    (tmp_path / "rows.tsv.gz").write_bytes(gzip.compress(content))
    os.mkfifo(tmp_path / "rows.tsv")
    writer = threading.Thread(target=lambda: (tmp_path / "rows.tsv").write_bytes(content))
    writer.start()
    for name in ("rows.tsv.gz", "rows.tsv"):
        assert [row.fields for row in read_rows(tmp_path / name, ("a", "b"))] == [{"a": "1", "b": "2"}]
    writer.join()
