"""Text files to articles, read as a stream."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bert_large.errors import InputError
from bert_large.prepare.sentence_workers import LONGEST_ARTICLE_BYTES
from bert_large.prepare.settings import DEFAULT_TEXT_FIELD
from bert_large.prepare.table_files import iterate_delimited, iterate_parquet, missing_field
from bert_large.prepare.text_encoding import Replaced, read_text
from bert_large.prepare.text_forms import DOC_START, blocks_of, refuse_markup
from bert_large.prepare.wikipedia import iterate_pages

_TITLE = re.compile(r'\stitle="([^"]*)"')


@dataclass
class Reading:
    """How the files of a corpus are read, and what was found in them."""

    form: str
    """A form of `TEXT_FORMS`."""
    text_field: str = DEFAULT_TEXT_FIELD
    """Field or column with the text."""
    encodings: dict[Path, str] = field(default_factory=dict)
    """Of each file; UTF-8 if it is missing."""
    replaced: dict[Path, Replaced] = field(default_factory=dict)
    """Of each file that has bytes that could not be decoded."""
    without_text: int = 0
    """JSON objects and rows of tables whose text is null or blank."""
    cuts: int = 0
    """Places where an article was divided because of its length."""


def iterate_articles(path: Path, reading: Reading) -> Iterator[list[str]]:
    """Yield the lines of each article of a file, without blank lines; wikitext for a MediaWiki dump (`iterate_pages`).

    A block of lines of more than `LONGEST_ARTICLE_BYTES` characters is divided. Raises `InputError` for a line or row
    that does not belong in a file of this form, or has too many bytes of another encoding.
    """
    encoding, replaced = reading.encodings.get(path, "utf-8"), Replaced()
    lines = map(str.strip, read_text(path, encoding, replaced))
    match reading.form:
        case "mediawiki":
            yield from iterate_pages(path)
        case "parquet":
            yield from _articles_of(iterate_parquet(path, reading.text_field), reading)
        case "csv":
            yield from _articles_of(iterate_delimited(path, reading.text_field, encoding, replaced), reading)
        case "json":
            yield from _json_articles(lines, path, reading)
        case "wikiextractor":
            yield from _doc_blocks(lines, path, reading)
        case "articles":
            yield from ([line] for line in refuse_markup(lines, path) if line)
        case _:
            yield from _plain_blocks(lines, path, reading)
    if replaced.count:
        reading.replaced[path] = replaced


def _plain_blocks(lines: Iterable[str], path: Path, reading: Reading) -> Iterator[list[str]]:
    for block in blocks_of(refuse_markup(lines, path), LONGEST_ARTICLE_BYTES):
        reading.cuts += sum(map(len, block)) >= LONGEST_ARTICLE_BYTES
        yield block


def _articles_of(texts: Iterable[str | None], reading: Reading) -> Iterator[list[str]]:
    """Yield the lines of each text that is not blank, and count the others."""
    for text in texts:
        if paragraphs := _paragraphs(text or ""):
            yield paragraphs
        else:
            reading.without_text += 1


def _paragraphs(text: str) -> list[str]:
    return [stripped for line in text.split("\n") if (stripped := line.strip())]


def _json_articles(lines: Iterable[str], path: Path, reading: Reading) -> Iterator[list[str]]:
    """Yield the lines of the text of each JSON object, without the title that WikiExtractor repeats first."""
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            content = json.loads(line)
            if not isinstance(content, dict):
                raise ValueError(f"found {line[:40]!r}, expected an object")
            if reading.text_field not in content:
                raise missing_field(path, f"line {number}", "field", reading.text_field, list(content))
            text = content[reading.text_field]
            if not isinstance(text, str | None):
                raise ValueError(f"the field {reading.text_field!r} is {str(text)[:40]!r}, expected a string")
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}: line {number} is not a JSON article: {error}; fix or delete the line") from None
        paragraphs = _paragraphs(text or "")
        if not paragraphs:
            reading.without_text += 1
        elif html.unescape(paragraphs[0]) == content.get("title"):
            del paragraphs[0]
        if paragraphs:
            yield paragraphs


def _doc_blocks(lines: Iterable[str], path: Path, reading: Reading) -> Iterator[list[str]]:
    """Yield the lines of each <doc id=…> … </doc>, without the title that WikiExtractor repeats as the first line."""
    article: list[str] | None = None
    title, opened, size = "", 0, 0
    for number, line in enumerate(lines, start=1):
        if line.startswith(DOC_START):
            if article is not None:
                raise InputError(f"{path}: line {number}: <doc> inside the <doc> of line {opened}, which has no </doc>")
            found = _TITLE.search(line)
            article, title, opened, size = [], html.unescape(found[1]) if found else "", number, 0
        elif line == "</doc>":
            if article is None:
                raise InputError(f"{path}: line {number}: </doc> without a <doc id=…> before it")
            if article:
                yield article
            article = None
        elif line and article is None:
            raise InputError(
                f"{path}: line {number}: text outside <doc id=…> … </doc>: {line[:40]!r}; is it WikiExtractor's output?"
            )
        elif line and article is not None and (size or html.unescape(line) != title):
            article.append(line)
            size += len(line)
            if size >= LONGEST_ARTICLE_BYTES:
                reading.cuts += 1
                yield article
                article, size = [], 1
    if article is not None:
        raise InputError(f"{path}: the <doc> of line {opened} has no </doc>; the file is truncated")
