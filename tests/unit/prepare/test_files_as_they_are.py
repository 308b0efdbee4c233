"""Files of any form, compression and encoding give the same articles; damaged ones are named with the place."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from backports import zstd
from bert_large.errors import InputError
from bert_large.prepare import compressed
from bert_large.prepare.articles import Reading, iterate_articles
from bert_large.prepare.sentences import split_sentences
from bert_large.prepare.settings import CorpusSettings
from bert_large.prepare.text_forms import resolve_forms
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

TEXTS = [
    'The "first" article, in two paragraphs.\n\nIt has a comma, a tab\there and a semicolon; all of it is kept.',
    "Die Straße führt über die Brücke nach Köln. Größere Städte haben häufig schöne alte Häuser.",
    "'Single quotes' and a backslash \\n stay as they are. So does | a bar.",
    *(f"Article {number} is here. It is short. It ends." for number in range(20)),
]
LINES = [[line.strip() for line in text.split("\n") if line.strip()] for text in TEXTS]
COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstd.compress,
}


def json_lines(field: str = "body") -> bytes:
    return "".join(json.dumps({"id": n, field: text}) + "\n" for n, text in enumerate(TEXTS)).encode()


def table(delimiter: str = ",", *, header: bool = True, ending: str = "\r\n") -> bytes:
    file = io.StringIO()
    writer = csv.writer(file, delimiter=delimiter, lineterminator=ending)
    writer.writerows([["id", "body", "date"]] if header else [])
    writer.writerows([n, text, "2020-01-01"] for n, text in enumerate(TEXTS))
    return file.getvalue().encode()


def parquet(texts: list[str | None] | None = None, names: Sequence[str] = ("id", "body")) -> bytes:
    file = io.BytesIO()
    columns = [pyarrow.array(range(len(texts or TEXTS))), pyarrow.array(texts or TEXTS)]
    pyarrow.parquet.write_table(pyarrow.table(columns, names=names), file)
    return file.getvalue()


def dump(texts: list[str], *, namespaces: str = "") -> bytes:
    pages = "".join(
        f"<page><title>T{n}</title><ns>0</ns><id>{n}</id><revision><id>1</id><text>old</text></revision>"
        f'<revision><id>2</id><text xml:space="preserve">{text}</text></revision></page>\n'
        for n, text in enumerate(texts)
    )
    others = (
        '<page><title>R</title><ns>0</ns><redirect title="T0" /><revision><text>#REDIRECT</text></revision></page>'
        "<page><title>Talk:T0</title><ns>1</ns><revision><text>A talk.</text></revision></page>"
    )
    head = f"<siteinfo><namespaces>{namespaces}</namespaces></siteinfo>"
    return f'<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/">{head}\n{pages}{others}</mediawiki>'.encode()


def read(path: Path, content: bytes, field: str | None = None, **options: object) -> list[list[str]]:
    """Return the articles of a file whose form and encoding are detected."""
    path.write_bytes(content)
    wanted = CorpusSettings(text_field=field, **options)  # type: ignore[arg-type]
    form, encodings = resolve_forms([path], wanted, split_sentences)
    return list(iterate_articles(path, Reading(form, field or "text", encodings)))


@pytest.mark.parametrize("compression", COMPRESSORS)
@pytest.mark.parametrize(
    ("name", "content"),
    [("a.jsonl", json_lines()), ("a.csv", table()), ("a.tsv", table("\t")), ("a.parquet", parquet())],
)
def test_every_form_in_every_compression(tmp_path: Path, name: str, content: bytes, compression: str) -> None:
    assert read(tmp_path / (name + compression), COMPRESSORS[compression](content), "body") == LINES
    assert read(tmp_path / "no_suffix", COMPRESSORS[compression](content), "body", input_format="auto") == LINES


@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|"])
@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_tables_of_all_delimiters_and_line_ends(tmp_path: Path, delimiter: str, ending: str) -> None:
    """With and without names of columns; Excel for the Mac ends lines with a carriage return."""
    assert read(tmp_path / "a.csv", table(delimiter, ending=ending), "body") == LINES
    assert read(tmp_path / "a.csv", table(delimiter, header=False, ending=ending), "2") == LINES


def test_tsv_without_quoting(tmp_path: Path) -> None:
    """Tasks such as GLUE's have it: a quote at the start of a cell is text, unless the whole cell is quoted."""
    content = 'id\ttext\n1\t"Hello," he said. He left.\n2\t"A ""quoted"" cell."\n3\tShe said "no".\n'
    assert read(tmp_path / "a.tsv", content.encode()) == [
        ['"Hello," he said. He left.'],
        ['A "quoted" cell.'],
        ['She said "no".'],
    ]


def test_long_cells_and_empty_ones(tmp_path: Path) -> None:
    """Longer than the 128 KiB that Python's reader allows by default; nulls and blank texts are counted."""
    long = "A sentence is here. " * 10_000
    (tmp_path / "a.csv").write_text(f"text\n{long}\n\"\"\n' '\n")
    (tmp_path / "a.parquet").write_bytes(parquet([long, None, " \n "]))
    (tmp_path / "a.json").write_text("".join(json.dumps({"body": text}) + "\n" for text in (long, None, "")))
    for name, form, field, without in (
        ("a.csv", "csv", "text", 1),
        ("a.parquet", "parquet", "body", 2),
        ("a.json", "json", "body", 2),
    ):
        reading = Reading(form, field)
        assert next(iterate_articles(tmp_path / name, reading)) == [long.strip()]
        list(iterate_articles(tmp_path / name, reading))
        assert reading.without_text == without


@pytest.mark.parametrize(
    "kind",
    [pyarrow.large_string(), pyarrow.string_view(), pyarrow.dictionary(pyarrow.int32(), pyarrow.string())],
)
def test_types_of_text_columns(tmp_path: Path, kind: pyarrow.DataType) -> None:
    column = pyarrow.array(TEXTS).cast(kind)
    pyarrow.parquet.write_table(pyarrow.table({"text": column}), tmp_path / "a", row_group_size=7, compression="zstd")
    assert read(tmp_path / "a", (tmp_path / "a").read_bytes()) == LINES


def test_a_mediawiki_dump(tmp_path: Path) -> None:
    wikitext = (
        "{{Infobox|a=b}}'''Ada''' [[File:x.png|thumb|A [[cat]]]] is a [[Lisp|language]] of [[Rome]]."
        "&lt;ref&gt;No.&lt;/ref&gt; See [http://x it].\n== History ==\n* a list\n{|\n| a table\n|}\n"
        "It was &lt;b&gt;old&lt;/b&gt;&amp;nbsp;then.\n"
        "[[Kategorie:Sprachen]]\n[[de:Ada]]"
    )
    content = dump([wikitext, "Second."], namespaces='<namespace key="14">Kategorie</namespace>')
    found = read(tmp_path / "dump.xml.bz2", bz2.compress(b'<?xml version="1.0"?>\n' + content))
    assert [page[0] for page in found] == [wikitext_of(wikitext), "Second."]
    from bert_large.prepare.wikipedia import plain_paragraphs

    assert plain_paragraphs(found[0][0], found[0][1:]) == [
        "Ada  is a language of Rome. See it.",
        "It was old\N{NO-BREAK SPACE}then.",
    ]


def wikitext_of(escaped: str) -> str:
    return escaped.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32", "utf-16-le", "cp1252", "latin-1"])
@pytest.mark.parametrize(("name", "content"), [("a.csv", table()), ("a", json_lines())])
def test_encodings_are_detected(tmp_path: Path, name: str, content: bytes, encoding: str) -> None:
    assert read(tmp_path / name, content.decode().encode(encoding), "body") == LINES


@pytest.mark.parametrize("encoding", ["utf-16-be", "koi8-r", "cp1251", "shift_jis"])
def test_encodings_are_given(tmp_path: Path, encoding: str) -> None:
    texts = ["Кошка сидела там. Она спала."] * 3
    content = "".join(f"{text}\n" for text in texts).encode(encoding)
    assert read(tmp_path / "a", content, input_format="articles", encoding=encoding) == [[text] for text in texts]


def test_repeated_columns_that_are_not_read(tmp_path: Path) -> None:
    assert read(tmp_path / "a.csv", b"id,text,id\n1,A text. It ends.,2\n") == [["A text. It ends."]]
    file = io.BytesIO()
    columns = [pyarrow.array(values) for values in ([1], ["A text. It ends."], [2])]
    pyarrow.parquet.write_table(pyarrow.table(columns, names=["id", "text", "id"]), file)
    assert read(tmp_path / "a.parquet", file.getvalue()) == [["A text. It ends."]]


def test_damaged_places_are_counted(tmp_path: Path) -> None:
    content = "".join(f"Line {n} of the café is here. It ends.\n" for n in range(1000)).encode()
    content = content.replace(b"Line 5 of the caf\xc3", b"Line 5 of \xff the caf").replace(
        b"Line 9 ", b"Line\xf0\x9f 9 "
    )
    (tmp_path / "a").write_bytes(content)
    reading = Reading("articles")
    found = list(iterate_articles(tmp_path / "a", reading))
    assert found[5] == ["Line 5 of \ufffd the caf\ufffd is here. It ends."]
    assert (reading.replaced[tmp_path / "a"].count, reading.replaced[tmp_path / "a"].first_line) == (3, 6)
    late = b"An ASCII line. It is long.\n" * 20_000 + "Là où était l'été. Déjà vu.\n".encode("cp1252") * 1000
    with pytest.raises(InputError, match=f"{tmp_path}/b: line 20[0-9]+: .* utf-8"):
        read(tmp_path / "b", late)


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("a.jsonl", json_lines("content"), "line 1: .*'id', 'content'"),
        ("a.csv", table(), "line 1: .*'id', 'body', 'date'"),
        ("a.csv", b"text,b\nA. B.,2\nonly one\n", "line 3: .* 1 columns"),
        ("a.csv", b'text,b\n"A quote. That never ends,2\nx,y\n', "line 3"),
        ("a.csv", b'text,b\n"A" x,2\n', "line 2"),
        ("a.csv", b"text,text\nA. B.,C. D.\n", "line 1: .* 2 columns 'text'"),
        ("a.parquet", parquet(), "row 1: .*'id', 'body'"),
        ("a.parquet", parquet(names=["text", "text"]), "row 1: .* 2 columns 'text'"),
        ("a.parquet", parquet()[:-20], "row 1"),
        ("a.parquet", b"PAR1" + bytes(100), "row 1"),
        ("a.xml", dump(TEXTS)[:-300], "line 2"),
        ("a.gz", gzip.compress(table())[:-12], "byte [0-9]+"),
        ("a.zst", zstd.compress(json_lines("text"))[:-12], "byte [0-9]+"),
        ("a.zst", zstd.compress(b"A. B.\n" * 500) + b"rest", "byte [0-9]+"),
        ("a.gz", gzip.compress(gzip.compress(table())), "line 1"),
        ("a", bytes(range(256)) * 20, "line [0-9]"),
        ("a", b"\x7fELF" + bytes(range(128)) * 20, "line [0-9]"),
    ],
)
def test_damaged_files_are_named_with_the_place(tmp_path: Path, name: str, content: bytes, named: str) -> None:
    with pytest.raises(InputError, match=f"^{tmp_path}/{name}.*{named}"):
        read(tmp_path / name, content)


def test_settings_without_meaning_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--text-field is 'body'"):
        read(tmp_path / "a", b"An article. It ends. It is over.\n" * 9, "body")
    with pytest.raises(InputError, match="--encoding is 'cp1252'"):
        read(tmp_path / "a", parquet(), "body", encoding="cp1252")
    with pytest.raises(InputError, match=f"{tmp_path}/a: line 1: .*latin-1"):
        read(tmp_path / "a", bytes(range(256)) * 9, encoding="latin-1")
    for encoding in ("nothing", "hex", "undefined"):
        with pytest.raises(InputError, match=f"--encoding is '{encoding}'"):
            CorpusSettings(encoding=encoding)


@pytest.mark.parametrize(
    ("package", "content", "options"),
    [
        ("pyarrow", parquet(), {}),
        ("mwparserfromhell", dump(TEXTS), {}),
        ("chardet", "Là où était l'été. Déjà vu.\n".encode("cp1252") * 9, {"input_format": "articles"}),
        ("zstd", zstd.compress(table()), {}),
    ],
)
def test_the_extra_is_named_where_it_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, content: bytes, options: dict[str, str]
) -> None:
    if package == "zstd":
        monkeypatch.setattr(compressed, "zstd", None)
    else:
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=rf"^{tmp_path}/a: .*\[text\]"):
        read(tmp_path / "a", content, "body" if not options else None, **options)


ANY_TEXT = st.lists(st.text(st.characters(codec="utf-8"), max_size=40), min_size=1, max_size=8)
QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def lines_of(texts: list[str]) -> list[list[str]]:
    stripped = ([line.strip() for line in text.split("\n")] for text in texts)
    return [lines for text in stripped if (lines := [line for line in text if line])]


@QUICK
@given(texts=ANY_TEXT)
def test_any_text_survives_tables_and_json(tmp_path: Path, texts: list[str]) -> None:
    file = io.StringIO(newline="")
    writer = csv.writer(file, quoting=csv.QUOTE_ALL)
    writer.writerows([["id", "text"], *([n, text] for n, text in enumerate(texts))])
    (tmp_path / "a.csv").write_bytes(file.getvalue().encode())
    (tmp_path / "a.json").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), tmp_path / "a.parquet")
    for form in ("json", "parquet", "csv"):
        assert list(iterate_articles(tmp_path / f"a.{form}", Reading(form))) == lines_of(texts), form


@QUICK
@given(
    content=st.binary(max_size=300),
    start=st.sampled_from([b"", b"PAR1", b"{", b"<mediawiki>", b"text,b\n", b"<doc id="]),
)
def test_any_bytes_are_read_or_refused(tmp_path: Path, content: bytes, start: bytes) -> None:
    """Only `InputError` may be raised, and it names the file."""
    for name in ("a", "a.csv"):
        for compress in (bytes, zstd.compress):
            path = tmp_path / name
            try:
                for lines in read(path, compress(start + content)):
                    assert all(isinstance(line, str) for line in lines)
            except InputError as error:
                assert str(tmp_path) in str(error)


@QUICK
@given(cut=st.integers(0, 2000), flipped=st.integers(0, 2000))
@pytest.mark.parametrize("form", ["csv", "parquet", "mediawiki", "json"])
def test_any_damage_is_found_or_harmless(tmp_path: Path, form: str, cut: int, flipped: int) -> None:
    contents = {"csv": table(), "parquet": parquet(), "json": json_lines(), "mediawiki": dump(TEXTS[3:])}
    content = bytearray(contents[form])
    content[flipped % len(content)] ^= 0x55
    (tmp_path / "a").write_bytes(content[: len(content) - cut % len(content)])
    try:
        list(iterate_articles(tmp_path / "a", Reading(form, "body")))
    except InputError as error:
        assert str(error).startswith(f"{tmp_path}/a")


@QUICK
@given(text=st.text("abc '[]{}|=<>/!-*#:\n\"refFile", max_size=120))
def test_any_wikitext_gives_paragraphs(text: str) -> None:
    from bert_large.prepare.wikipedia import plain_paragraphs

    for line in plain_paragraphs(text, ["file"]):
        assert line == line.strip() and line and "\n" not in line and "\1" not in line
