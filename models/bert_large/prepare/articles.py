"""Raw text files to articles: the formats that corpora come in, told apart and read as a stream."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

from bert_large.errors import InputError
from bert_large.prepare.documents import read_lines

# What each line of an article is, by the name of the format.
FORMATS = {
    "sentences": "a sentence a line, blank lines between articles (MLCommons')",
    "paragraphs": "a paragraph a line, blank lines between articles",
    "articles": "an article a line",
    "wikiextractor": "WikiExtractor's <doc …> blocks, a paragraph a line",
}
_SAMPLE_LINES = 1000
_SENTENCES_OF_A_PARAGRAPH = 1.5
_LINES_OF_AN_ARTICLE = 1.5
_DOC = re.compile(r"<doc\s[^>]*>")
_TITLE = re.compile(r'\stitle="([^"]*)"')


def list_text_files(folder: Path) -> list[Path]:
    """Return the visible, non-empty files of `folder` and the folders in it, by path; `InputError` if there are none.

    WikiExtractor spreads its files over folders AA, AB and so on.
    """
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise InputError(f"--input-dir {folder}: found {found}, expected a folder of text files")
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file()
        and path.stat().st_size
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    if not files:
        raise InputError(f"--input-dir {folder}: found no files with text in it or in folders inside")
    return files


def iterate_articles(path: Path, input_format: str) -> Iterator[list[str]]:
    """Yield the lines of each article of a file, without blank ones; raise `InputError` for broken UTF-8 or markup."""
    lines = _lines(path)
    if input_format == "wikiextractor":
        return _doc_blocks(lines, path)
    if input_format == "articles":
        return ([line] for line in lines if line)
    return _blocks(lines)


def detect_format(path: Path, split_sentences: Callable[[str], list[str]]) -> str:
    """Return the format of a file by its first lines; raise `InputError` if they fit none.

    WikiExtractor's begins with its markup. Of the others, lines of a single sentence each are sentences; lines of
    several are paragraphs if several stand together between blank lines, and else articles.
    """
    blocks = list(_blocks(islice(_lines(path), _SAMPLE_LINES)))
    if not blocks:
        raise InputError(f"{path}: its first {_SAMPLE_LINES} lines are blank; remove the file or name --input-format")
    if _DOC.match(blocks[0][0]):
        return "wikiextractor"
    lines = [line for block in blocks for line in block]
    if sum(len(split_sentences(line)) for line in lines) >= _SENTENCES_OF_A_PARAGRAPH * len(lines):
        is_paragraphs = len(blocks) > 1 and len(lines) >= _LINES_OF_AN_ARTICLE * len(blocks)
        return "paragraphs" if is_paragraphs else "articles"
    if len(blocks) > 1:
        return "sentences"
    raise InputError(
        f"{path}: {len(lines)} lines of about a sentence each without a blank line between articles; put blank lines "
        "there, or name --input-format if each line is an article"
    )


def _lines(path: Path) -> Iterator[str]:
    """Yield the lines of a file without surrounding whitespace, or the mark that some editors begin a file with."""
    for number, line in enumerate(read_lines(path)):
        yield line if number else line.lstrip("\ufeff").strip()


def _blocks(lines: Iterable[str]) -> Iterator[list[str]]:
    """Yield the lines between blank ones."""
    block: list[str] = []
    for line in lines:
        if line:
            block.append(line)
        elif block:
            yield block
            block = []
    if block:
        yield block


def _doc_blocks(lines: Iterable[str], path: Path) -> Iterator[list[str]]:
    """Yield the lines of each <doc …> … </doc>, without the title that WikiExtractor repeats as the first line."""
    article: list[str] | None = None
    title, opened = "", 0
    for number, line in enumerate(lines, start=1):
        if _DOC.match(line):
            if article is not None:
                raise InputError(f"{path}: line {number}: <doc> inside the <doc> of line {opened}; it lacks its </doc>")
            found = _TITLE.search(line)
            article, title, opened = [], html.unescape(found[1]) if found else "", number
        elif line == "</doc>":
            if article is None:
                raise InputError(f"{path}: line {number}: </doc> without a <doc> before it")
            if article:
                yield article
            article = None
        elif article is not None:
            if line and not (not article and html.unescape(line) == title):
                article.append(line)
        elif line:
            raise InputError(f"{path}: line {number}: text outside <doc> … </doc>; is it WikiExtractor's output?")
    if article is not None:
        raise InputError(f"{path}: the <doc> of line {opened} has no </doc>; the file is truncated")
