"""Texts of files in every format."""

from __future__ import annotations

from pathlib import Path

import pytest
from bert_large.errors import InputError
from bert_large.inference.texts import read_texts


@pytest.mark.parametrize(
    ("name", "content", "field"),
    [
        ("a.txt", "one, two\n\n é\r\nlast", None),
        ("a.jsonl", '{"text": "one, two"}\n\n{"text": ""}\n{"text": " \\u00e9"}\n{"text": "last", "id": 3}', None),
        ("a.csv", 'id,body\n1,"one, two"\n2,\n3, é\n4,last\n', "body"),
        ("a.tsv", "body\tid\none, two\t1\n\t2\n é\t3\nlast\t4\n", "body"),
    ],
)
def test_formats(name: str, content: str, field: str | None, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content.encode())
    assert list(read_texts(str(tmp_path / name), field)) == ["one, two", "", " é", "last"]


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("a.txt", b"", "a.txt"),
        ("a.txt", b"fine\n\xff\n", "line 2"),
        ("a.jsonl", b'{"text": "fine"}\n{"other": 1}\n', "line 2"),
        ("a.jsonl", b'{"text": 1}\n', "line 1"),
        ("a.jsonl", b"[]\n", "line 1"),
        ("a.jsonl", b"fine\n", "line 1"),
        ("a.csv", b"id\n1\n", "text"),
    ],
)
def test_damaged_files_are_named(name: str, content: bytes, named: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=named):
        list(read_texts(str(tmp_path / name)))


def test_half_a_character_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a\\ud800b"}')
    assert list(read_texts(str(tmp_path / "a.jsonl"))) == ["a?b"]


def test_a_text_file_has_no_fields(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n")
    with pytest.raises(InputError, match="body"):
        list(read_texts(str(tmp_path / "a.txt"), "body"))
    with pytest.raises(InputError, match=r"no\.txt"):
        list(read_texts(str(tmp_path / "no.txt")))
