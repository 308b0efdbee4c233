"""Text files to articles, read as a stream."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from bert_large.errors import InputError
from bert_large.prepare.text_files import read_lines
from bert_large.prepare.text_forms import DOC_START, blocks_of, refuse_markup

_TITLE = re.compile(r'\stitle="([^"]*)"')


def iterate_articles(path: Path, form: str) -> Iterator[list[str]]:
    """Yield the lines of each article of a file in a form of `TEXT_FORMS`, without blank lines.

    Raises `InputError` for bytes that are not UTF-8, and for a line that does not belong in a file of this form.
    """
    lines = read_lines(path)
    if form == "wikiextractor":
        return _doc_blocks(lines, path)
    if form == "json":
        return _json_articles(lines, path)
    lines = refuse_markup(lines, path)
    return ([line] for line in lines if line) if form == "articles" else blocks_of(lines)


def _json_articles(lines: Iterable[str], path: Path) -> Iterator[list[str]]:
    """Yield the lines of the field "text" of each line, without the title that WikiExtractor repeats first."""
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            content = json.loads(line)
            if not isinstance(content, dict):
                raise ValueError(f"found {line[:40]!r}, expected an object")
            if not isinstance(content.get("text"), str):
                found = repr(content["text"])[:40] if "text" in content else f"only {', '.join(content)}"
                raise ValueError(f'found {found}, expected a field "text" that is a string')
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}: line {number} is not a JSON article: {error}; fix or delete the line") from None
        paragraphs = [stripped for paragraph in content["text"].split("\n") if (stripped := paragraph.strip())]
        if paragraphs and html.unescape(paragraphs[0]) == content.get("title"):
            del paragraphs[0]
        if paragraphs:
            yield paragraphs


def _doc_blocks(lines: Iterable[str], path: Path) -> Iterator[list[str]]:
    """Yield the lines of each <doc id=…> … </doc>, without the title that WikiExtractor repeats as the first line."""
    article: list[str] | None = None
    title, opened = "", 0
    for number, line in enumerate(lines, start=1):
        if line.startswith(DOC_START):
            if article is not None:
                raise InputError(f"{path}: line {number}: <doc> inside the <doc> of line {opened}, which has no </doc>")
            found = _TITLE.search(line)
            article, title, opened = [], html.unescape(found[1]) if found else "", number
        elif line == "</doc>":
            if article is None:
                raise InputError(f"{path}: line {number}: </doc> without a <doc id=…> before it")
            if article:
                yield article
            article = None
        elif article is not None:
            if line and not (not article and html.unescape(line) == title):
                article.append(line)
        elif line:
            raise InputError(
                f"{path}: line {number}: text outside <doc id=…> … </doc>: {line[:40]!r}; is it WikiExtractor's output?"
            )
    if article is not None:
        raise InputError(f"{path}: the <doc> of line {opened} has no </doc>; the file is truncated")
