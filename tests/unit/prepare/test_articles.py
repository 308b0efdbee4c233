"""Raw text files become articles, whichever of the formats they are in."""

from __future__ import annotations

from pathlib import Path

import pytest
from bert_large.errors import InputError
from bert_large.prepare.articles import detect_format, iterate_articles, list_text_files
from bert_large.prepare.sentences import split_sentences

DOCS = """<doc id="1" url="https://x/?curid=1" title="A &amp; B">
A &amp; B

First. Second.

Section.
Third.
</doc>

<doc id="2" url="https://x/?curid=2" title="Empty">
Empty

</doc>
<doc id="3" url="u">
No title.
</doc>
"""


def read(path: Path, text: str, input_format: str) -> list[list[str]]:
    path.write_text(text, encoding="utf-8")
    return list(iterate_articles(path, input_format))


@pytest.mark.parametrize(
    ("input_format", "text", "expected"),
    [
        ("sentences", "a\nb\n\n \n\nc", [["a", "b"], ["c"]]),
        ("paragraphs", "\ufeffa. b.\nc.\n\nd.\n", [["a. b.", "c."], ["d."]]),
        ("articles", "\na. b.\n\nc.\nd.", [["a. b."], ["c."], ["d."]]),
        ("wikiextractor", DOCS, [["First. Second.", "Section.", "Third."], ["No title."]]),
        ("wikiextractor", "\ufeff" + DOCS, [["First. Second.", "Section.", "Third."], ["No title."]]),
        ("wikiextractor", '<doc id="1" title="A">\nB\nA\n</doc>', [["B", "A"]]),  # only a first line is the title
        ("sentences", "\n\n", []),
    ],
)
def test_articles(tmp_path: Path, input_format: str, text: str, expected: list[list[str]]) -> None:
    assert read(tmp_path / "text", text, input_format) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('<doc id="1">\na\n<doc id="2">\n', "line 3: <doc> inside the <doc> of line 1"),
        ('<doc id="1">\na\n</doc>\n</doc>\n', "line 4: </doc> without a <doc>"),
        ('\nloose\n<doc id="1">\n', "line 2: text outside <doc>"),
        ('<doc id="1">\na\n', "the <doc> of line 1 has no </doc>; the file is truncated"),
    ],
)
def test_broken_markup_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=f"text: {message}"):
        read(tmp_path / "text", text, "wikiextractor")


def test_wrong_bytes_are_named(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"a\n\xff\n")
    for input_format in ("sentences", "articles", "wikiextractor"):
        with pytest.raises(InputError, match=r"text: byte 2: 0xff is not UTF-8|text outside"):
            list(iterate_articles(tmp_path / "text", input_format))


LONG = "The cat sat down. It was tired. Then it slept."


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (DOCS, "wikiextractor"),
        ("\n\ufeff\n" + DOCS.replace("\n\n", "\n"), None),
        ("One sentence.\nAnd another.\n\nA third.\n", "sentences"),
        (f"{LONG}\n{LONG}\n", "articles"),
        (f"{LONG}\n\n{LONG}\n\n{LONG}\n", "articles"),  # NVIDIA's formatted files have blank lines too
        (f"{LONG}\n{LONG}\n\n{LONG}\n{LONG}\n", "paragraphs"),
        (f"{LONG}\n", "articles"),
        ("One sentence.\nAnd another.\n", None),
        ("\n\n", None),
    ],
)
def test_formats_are_told_apart(tmp_path: Path, text: str, expected: str | None) -> None:
    path = tmp_path / "text"
    path.write_text(text, encoding="utf-8")
    if expected:
        assert detect_format(path, split_sentences) == expected
    else:
        with pytest.raises(InputError, match="input-format"):
            detect_format(path, split_sentences)


def test_files_of_inner_folders_are_found_in_order(tmp_path: Path) -> None:
    for name in ("AB/wiki_00", "AA/wiki_01", "AA/wiki_00", "AA/.hidden", ".git/x", "top"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("text")
    (tmp_path / "AA" / "empty").touch()
    found = [path.relative_to(tmp_path).as_posix() for path in list_text_files(tmp_path)]
    assert found == ["AA/wiki_00", "AA/wiki_01", "AB/wiki_00", "top"]


def test_no_files_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with pytest.raises(InputError, match="found no files with text"):
        list_text_files(tmp_path)
    for name, found in (("empty", "a file"), ("none", "nothing")):
        with pytest.raises(InputError, match=f"found {found}, expected a folder"):
            list_text_files(tmp_path / name)
