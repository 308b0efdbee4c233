"""Tab-separated files: quotes are text, line numbers are the file's, what is wrong is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from bert_large.errors import DataError
from bert_large.finetune.tsv import read_rows


def write(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "train.tsv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_quotes_and_other_line_ends_are_text(tmp_path: Path) -> None:
    path = write(tmp_path, "\ufeffa\tb\r\n\"one\t'two\r\n\n\x85x\u2028\ty\rz\textra\n")
    rows = list(read_rows(path, ("a", "b")))
    assert [(row.line, row.fields) for row in rows] == [
        (2, {"a": '"one', "b": "'two"}),
        (4, {"a": "\x85x\u2028", "b": "y\rz"}),
    ]


def test_a_file_without_header(tmp_path: Path) -> None:
    (row,) = read_rows(write(tmp_path, "1\t2\n"), ("b",), header=("a", "b"))
    assert (row.line, row.fields) == (1, {"a": "1", "b": "2"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: found an empty file, expected the columns a, b"),
        ("a\tc\n1\t2\n", r"line 1: found the columns a, c, expected a, b among them \(b missing\)"),
        ("a\tb\n1\t2\n3\n", "line 3: found 1 fields, expected 2: a, b"),
        (b"a\tb\n1\t2\xff\n", "line 2: found the byte 0xff, expected UTF-8"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str | bytes, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(DataError, match=f"{path}: {message}"):
        list(read_rows(path, ("a", "b")))


def test_short_rows_are_left_out_if_asked_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    path = write(tmp_path, "a\tb\n1\n2\t3\n")
    assert [row.fields["b"] for row in read_rows(path, ("a", "b"), skip_short=True)] == ["3"]
    assert caplog.messages == [f"{path}: 1 rows that lack columns are left out"]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.tsv: No such file"):
        list(read_rows(tmp_path / "none.tsv", ("a",)))
