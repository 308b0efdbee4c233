"""A MediaWiki dump (XML) to the wikitext of its articles, and wikitext to paragraphs of plain text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO
from xml.etree import ElementTree

from bert_large.errors import InputError
from bert_large.prepare.compressed import open_decompressed
from bert_large.prepare.text_files import MAX_LINE_BYTES

_FILES, _CATEGORIES = "6", "14"
"""Keys of the namespaces whose links show no text; their names depend on the wiki's language."""
_LIST_ITEM = "\1"
_NOT_PROSE = (_LIST_ITEM, "|", "{|", "!", "*", "#", ":", ";")
"""Starts of lines of lists and of tables that are not closed."""
_INLINE_TAGS = re.compile(
    "abbr|b|bdi|bdo|big|blockquote|center|cite|code|del|dfn|div|em|font|i|ins|kbd|mark|nowiki|onlyinclude|p|poem|q|s|samp|"
    "small|span|strike|strong|sub|sup|tt|u|var"
)
"""Tags whose content is text of the article. That of all others, such as <ref>, <math> and tables, is left out."""
_INTERLANGUAGE = re.compile(r"[a-z]{2,3}(-[a-z-]+)?|simple")


def iterate_pages(path: Path) -> Iterator[list[str]]:
    """Yield the wikitext of each article, followed by the names of namespaces whose links have no text.

    Redirects and pages outside of the main namespace, such as talk pages, are left out. Of a page with its history, the
    last revision is read. One page is in memory at a time. Raises `InputError` for a dump that is damaged or truncated.
    """
    with open_decompressed(path) as file:
        try:
            yield from _parse_pages(file, path)
        except ElementTree.ParseError as error:
            line, column = error.position
            raise InputError(
                f"{path}: line {line}: not valid XML at column {column} ({error}); the dump is damaged or "
                "truncated, get it again"
            ) from None


def _parse_pages(file: BinaryIO, path: Path) -> Iterator[list[str]]:
    silent: list[str] = ["file", "image", "category"]
    page: dict[str, str] = {}
    ancestors: list[ElementTree.Element] = []
    for event, element in ElementTree.iterparse(file, ("start", "end")):
        if event == "start":
            ancestors.append(element)
            continue
        ancestors.pop()
        name = element.tag.rpartition("}")[2]
        if name == "namespace" and element.get("key") in (_FILES, _CATEGORIES):
            silent.append((element.text or "").lower())
        elif name == "page":
            if page.get("ns", "0") == "0" and "redirect" not in page and page.get("text", "").strip():
                yield [_bounded(page["text"], page.get("title", ""), path), *silent]
            page = {}
        elif name in ("ns", "text", "redirect", "title"):
            page[name] = element.text or ""
        if ancestors:
            ancestors[-1].remove(element)


def _bounded(text: str, title: str, path: Path) -> str:
    if len(text) > MAX_LINE_BYTES:
        raise InputError(f"{path}: the page {title!r} has more than {MAX_LINE_BYTES} characters; delete the page")
    return text


def plain_paragraphs(wikitext: str, silent: list[str]) -> list[str]:
    """Return the paragraphs of an article without headings, lists, tables, templates, references and markup.

    `silent`: names of namespaces in lower case, such as "category", whose links are left out.
    """
    import mwparserfromhell

    parts: list[str] = []
    _add_text(mwparserfromhell.parse(wikitext, skip_style_tags=True).nodes, frozenset(silent), parts)
    lines = re.sub("'{2,5}", "", "".join(parts)).split("\n")
    return [line for line in map(str.strip, lines) if line and not line.startswith(_NOT_PROSE)]


def _add_text(nodes: list[Any], silent: frozenset[str], parts: list[str]) -> None:
    """Append the text of parsed nodes to `parts`."""
    for node in nodes:
        text, children = _content(node, silent)
        parts.append(text)
        _add_text(children, silent, parts)


def _content(node: Any, silent: frozenset[str]) -> tuple[str, list[Any]]:
    """Return a node's own text and the nodes of which the rest of its text consists."""
    from mwparserfromhell import nodes as kinds

    if isinstance(node, kinds.Text):
        return node.value, []
    if isinstance(node, kinds.HTMLEntity):
        return node.normalize(), []
    if isinstance(node, kinds.Wikilink):
        return "", [] if _is_silent(str(node.title), silent) else (node.text or node.title).nodes
    if isinstance(node, kinds.ExternalLink):
        return "", [] if node.title is None else node.title.nodes
    if isinstance(node, kinds.Heading):
        return "\n", []
    if not isinstance(node, kinds.Tag):
        return "", []
    name = str(node.tag).strip().lower()
    if name in ("li", "dd", "dt") and node.wiki_markup:
        return _LIST_ITEM, []
    if name == "br":
        return "\n", []
    shown = _INLINE_TAGS.fullmatch(name) and node.contents is not None
    return "", node.contents.nodes if shown else []


def _is_silent(title: str, silent: frozenset[str]) -> bool:
    """Return whether a link shows no text: one to a file, a category, or an article in another language."""
    prefix, colon, _ = title.partition(":")
    prefix = prefix.strip().lower()
    return bool(colon) and (prefix in silent or _INTERLANGUAGE.fullmatch(prefix) is not None)
