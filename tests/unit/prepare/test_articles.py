"""Raw text files become articles, whichever form they have; the form of every file is detected."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bert_large.errors import InputError
from bert_large.prepare.articles import Reading, iterate_articles
from bert_large.prepare.sentences import split_sentences
from bert_large.prepare.settings import CorpusSettings
from bert_large.prepare.text_forms import require_sentences, resolve_forms

from tests.support.raw_text import DOCS, LONG

JSON = "".join(
    json.dumps({"id": "1", "title": title, "text": text}) + "\n"
    for title, text in (("A & B", "A &amp; B\n\nFirst. Second.\nThird."), ("Empty", ""), ("C", "No title.\u2028End."))
)
SHORT = "One sentence.\nAnd another.\n\nA third.\n"
PARAGRAPHS = f"{LONG}\n{LONG}\n\n{LONG}\n{LONG}\n"
ARTICLES = f"{LONG}\n" * 20


def read(path: Path, text: str, form: str) -> list[list[str]]:
    path.write_text(text, encoding="utf-8")
    return list(iterate_articles(path, Reading(form)))


def form_of(folder: Path, *texts: str | bytes, wanted: str = "auto") -> str:
    """Return the form of files with these texts."""
    files = [folder / f"part-{number}" for number in range(len(texts))]
    for path, text in zip(files, texts, strict=True):
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return resolve_forms(files, CorpusSettings(input_format=wanted), split_sentences)[0]


@pytest.mark.parametrize(
    ("form", "text", "expected"),
    [
        ("sentences", "a\nb\n\n \n\nc", [["a", "b"], ["c"]]),
        ("paragraphs", "\ufeffa. b.\nc.\n\nd.\n", [["a. b.", "c."], ["d."]]),
        ("articles", "\na. b.\n\nc.\nd.", [["a. b."], ["c."], ["d."]]),
        ("wikiextractor", DOCS, [["First. Second.", "Section.", "Third."], ["No title."]]),
        ("wikiextractor", "\ufeff" + DOCS, [["First. Second.", "Section.", "Third."], ["No title."]]),
        ("wikiextractor", '<doc id="1" title="A">\nB\nA\n</doc>', [["B", "A"]]),  # only a first line is the title
        ("wikiextractor", '<doc id="1">\n<doc>\n<document id="2">\n</doc>', [["<doc>", '<document id="2">']]),
        ("json", JSON, [["First. Second.", "Third."], ["No title.\u2028End."]]),
        ("sentences", '<doc>\n{"a": 1}\n{}', [["<doc>", '{"a": 1}', "{}"]]),
        ("sentences", "\n\n", []),
    ],
)
def test_articles(tmp_path: Path, form: str, text: str, expected: list[list[str]]) -> None:
    assert read(tmp_path / "text", text, form) == expected


@pytest.mark.parametrize(
    ("form", "text", "line"),
    [
        ("wikiextractor", '<doc id="1">\na\n<doc id="2">\n', "line 3"),
        ("wikiextractor", '<doc id="1">\na\n</doc>\n</doc>\n', "line 4"),
        ("wikiextractor", '\nloose\n<doc id="1">\n', "line 2"),
        ("wikiextractor", '<doc id="1">\na\n', "line 1"),
        ("json", '{"text": "a"}\nb\n', "line 2"),
        ("json", '{"text": "a"}\n{"text": "b', "line 2"),
        ("json", '{"text": "a"}\n["b"]\n', "line 2"),
        ("json", '\n{"text": 1}', "line 2"),
        ("json", '{"body": "a"}', "line 1.*body"),
        ("articles", f"{LONG}\n{DOCS}", "line 2"),
        ("sentences", f"{SHORT}{JSON}", "line 5"),
        ("paragraphs", f"a\n\n{DOCS}", "line 3"),
    ],
)
def test_the_line_that_does_not_belong_is_named(tmp_path: Path, form: str, text: str, line: str) -> None:
    (tmp_path / "text").write_bytes(text.encode(errors="surrogatepass"))
    with pytest.raises(InputError, match=f"{tmp_path}/text: .*{line}"):
        list(iterate_articles(tmp_path / "text", Reading(form)))


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ([DOCS], "wikiextractor"),
        ([DOCS, "\n \n"], "wikiextractor"),  # a blank file has any form
        ([JSON], "json"),
        ([SHORT], "sentences"),
        ([SHORT, "One article.\nOf two sentences.\n"], "sentences"),
        ([ARTICLES], "articles"),
        ([ARTICLES, f"{LONG}\n", "A short one.\n"], "articles"),
        ([f"{LONG}\n\n{LONG}\n\n{LONG}\n"], "articles"),  # NVIDIA's formatted files have blank lines too
        ([PARAGRAPHS], "paragraphs"),
        ([PARAGRAPHS, f"{LONG}\n{LONG}\n", PARAGRAPHS, SHORT], "paragraphs"),
        ([SHORT, PARAGRAPHS, SHORT], "paragraphs"),  # paragraphs may be single sentences
    ],
)
def test_the_form_of_files_that_are_alike(tmp_path: Path, texts: list[str], expected: str) -> None:
    assert form_of(tmp_path, *texts) == expected


@pytest.mark.parametrize(
    ("texts", "file"),
    [
        ([SHORT, DOCS], "part-0"),  # a README before WikiExtractor's files
        ([SHORT, SHORT, DOCS], "part-0"),
        ([DOCS, DOCS, JSON], "part-2"),
        ([ARTICLES, JSON], "part-0"),
        ([ARTICLES, ARTICLES, PARAGRAPHS], "part-2"),
        ([ARTICLES, ARTICLES, SHORT], "part-2"),
        ([SHORT, SHORT, ARTICLES], "part-2"),
        ([PARAGRAPHS, PARAGRAPHS, 20 * ARTICLES], "part-2"),
        (["One sentence.\nAnd another.\n"], "part-0"),  # nothing shows where articles end
    ],
)
def test_a_file_unlike_its_neighbors_is_named(tmp_path: Path, texts: list[str], file: str) -> None:
    with pytest.raises(InputError, match=rf"^{tmp_path}/{file}(:| has) "):
        form_of(tmp_path, *texts)


@pytest.mark.parametrize(
    "content",
    [
        "\n<?xml version='1.0'?>\n<a/>",
        "<!DOCTYPE html>\n<p>Text. More.</p>",
        '<text id="1">\nA. B.\n',
        "<article>\nA. B.\n</article>\n",
        '[{"text": "a"}]',
        '{\n "text": "a"\n}',
        '{"text": "a"',
        '{"id": 1, "content": "a"}',
        "id,title,body\n1,a,b\n2,c,d\n",
        "1\tA b. C.\n2\tD.\n3\tE.\n",
        b"%PDF-1.4\n",
        b"PK\x03\x04a.docx",
        b"\x28\xb5\x2f\xfd\x24\x00",  # a truncated frame of Zstandard
        b"\x7fELF" + bytes(range(40)) + bytes(40),
        b"a.txt" + bytes(252) + b"ustar\x00" + bytes(200),
    ],
)
def test_files_that_are_not_text_are_refused(tmp_path: Path, content: str | bytes) -> None:
    """Also among files that are."""
    for texts in ([content], [ARTICLES, ARTICLES, content]):
        with pytest.raises(InputError, match=f"^{tmp_path}/part-{len(texts) - 1}: (line [12]|byte 6)"):
            form_of(tmp_path, *texts)


@pytest.mark.parametrize(
    "text",
    [
        "<unk> is a word. So is <s>.\n",
        "Hello, you, and me. It is fine, now, so.\n",
        "Of all the words, text\nis one. A text.\n",
        "{}. a\n",
    ],
)
def test_text_that_resembles_other_forms_is_text(tmp_path: Path, text: str) -> None:
    assert form_of(tmp_path, text * 10) == "articles"


def test_a_given_form_must_fit(tmp_path: Path) -> None:
    """It settles what cannot be detected, but does not turn markup into text."""
    table = "a, b. c.\td\n" * 5
    assert form_of(tmp_path, SHORT, table, wanted="articles") == "articles"
    for texts, wanted in (
        ([SHORT, DOCS], "sentences"),
        ([JSON], "wikiextractor"),
        ([DOCS], "json"),
        ([SHORT], "json"),
        (["<?xml version='1.0'?>\n"], "articles"),
    ):
        with pytest.raises(InputError, match=f"^{tmp_path}/part-{len(texts) - 1}: line 1"):
            form_of(tmp_path, *texts, wanted=wanted)


@pytest.mark.parametrize("text", [DOCS, JSON, "\n<html>\n", b"\xff\xfea\0"])
def test_sentences_are_required_where_no_other_form_is_read(tmp_path: Path, text: str | bytes) -> None:
    path = tmp_path / "text"
    path.write_text(SHORT)
    require_sentences(path)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=f"^{path}: line [12]"):
        require_sentences(path)
