from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from bert_large.errors import InputError
from bert_large.prepare import documents
from bert_large.prepare.documents import read_documents


def numbers(lines: Sequence[str]) -> list[list[int]]:
    """Return the numbers of each line, which are separated by spaces; other characters have no tokens."""
    return [[int(word) for word in line.split() if word.isdecimal()] for line in lines]


def sentences(path: Path, text: str) -> list[list[list[int]]]:
    """Return the documents of `text` as lists of sentences of ids."""
    path.write_text(text, encoding="utf-8", newline="")
    read = read_documents(path, numbers)
    return [[read.tokens[start:stop].tolist() for start, stop in pairwise(starts)] for starts in read.boundaries]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1 2\n3\n\n4\n", [[[1, 2], [3]], [[4]]]),
        ("1\n\n2", [[[1]], [[2]]]),  # no final newline
        ("\n\n\n1\n\n \t\n\n2\n\n\n", [[[1]], [[2]]]),  # several blank lines, at both ends too
        ("1\n\u00a0\x0c\u2028\n2\n", [[[1]], [[2]]]),  # a line of any white space is blank
        ("1\n\u200b\n2\n", [[[1], [2]]]),  # a line without tokens is not
        ("1\r\n\r\n2\r\n", [[[1]], [[2]]]),
        ("1\r2\x0b3\u20284\x855\n", [[[1, 2, 3, 4, 5]]]),  # only a line feed ends a sentence
        ("\n \n\t\n", []),
        ("\u200b\n", []),
        ("", []),
    ],
)
def test_documents(tmp_path: Path, text: str, expected: list[list[list[int]]]) -> None:
    assert sentences(tmp_path / "text", text) == expected


@pytest.mark.parametrize(
    "line", ["<!DOCTYPE html><html><body></html>", '<?xml version="1.0"?>', '<doc id="1" title="A">']
)
def test_markup_after_text_is_refused(tmp_path: Path, line: str) -> None:
    with pytest.raises(InputError, match="line 3"):
        sentences(tmp_path / "text", f"1 2\n\n{line}\n")
    assert sentences(tmp_path / "text", "<html> is 1 tag.\n") == [[[1]]]


def test_documents_span_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "BATCH_LINES", 2)
    assert sentences(tmp_path / "text", "1\n2\n3\n\n4\n5\n\n6") == [[[1], [2], [3]], [[4], [5]], [[6]]]


def test_tokens_are_int32(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("1 30521\n")
    tokens = read_documents(tmp_path / "text", numbers).tokens
    assert (tokens.dtype, tokens.tolist()) == ("int32", [1, 30521])
