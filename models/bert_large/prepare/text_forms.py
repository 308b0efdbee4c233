"""The form of text files: detected for each file, so that no file is read as something that it is not."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bert_large.errors import InputError
from bert_large.prepare.settings import TEXT_FORMS
from bert_large.prepare.text_files import open_decompressed, plain_name, read_lines

PLAIN_FORMS = ("sentences", "paragraphs", "articles")
DOC_START = "<doc id="
_HEAD_BYTES = 4096
_SAMPLE_LINES, _SAMPLE_CHARACTERS = 1000, 1 << 20
_SPLIT_CHARACTERS = (1 << 16) + 1
"""Characters of a sample that are split into sentences; the others only count as lines."""
_LONG_LINES, _CLEARLY_LONG_LINES = 1.5, 1.7
"""Sentences per line from which lines are taken for paragraphs or articles, and from which they certainly are."""
_LINES_OF_ARTICLE = 1.5
_MOST_PARAGRAPHS = 300
"""A block of more long lines without a blank line is a list of articles, not one article of that many paragraphs."""

_SIGNATURES = (
    (b"%PDF-", "a PDF document"),
    (b"PK\x03\x04", "a ZIP archive (also .docx, .xlsx, .epub and .odt)"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (b"Rar!", "a RAR archive"),
    (b"\x28\xb5\x2f\xfd", "Zstandard data, expected UTF-8 text; decompress it with `zstd -d`"),
    (b"{\\rtf", "an RTF document"),
    (b"\xd0\xcf\x11\xe0", "a Microsoft Office document"),
    (b"PAR1", "a Parquet table"),
    (b"\xff\xfe\0\0", "UTF-32 text, expected UTF-8; convert it with `iconv -f UTF-32 -t UTF-8`"),
    (b"\0\0\xfe\xff", "UTF-32 text, expected UTF-8; convert it with `iconv -f UTF-32 -t UTF-8`"),
    (b"\xff\xfe", "UTF-16 text, expected UTF-8; convert it with `iconv -f UTF-16 -t UTF-8`"),
    (b"\xfe\xff", "UTF-16 text, expected UTF-8; convert it with `iconv -f UTF-16 -t UTF-8`"),
)
_TAR_OFFSET, _TAR_MAGIC = 257, b"ustar"
_NUL_SHARE = 0.1
"""Share of zero bytes above which a file is not text: UTF-16 has about half. Single ones occur in crawled text."""
_MARKUP_START = re.compile(r"<(\?xml|!doctype|html|mediawiki)\b", re.IGNORECASE)
_MARKUP_LINE = re.compile(r"<(\?xml|!doctype|html|mediawiki)\b.*>", re.IGNORECASE)
"""A line of markup alone; a sentence may begin with a tag, but does not end with one."""
_TAG = re.compile(r"""<([A-Za-z][\w:.-]*)(\s+[\w:.-]+\s*=\s*["'][^<]*)?\s*>""")
_MARKUP_ADVICE = "extract its text first, as WikiExtractor does of a Wikipedia dump"


@dataclass(frozen=True, slots=True)
class TextForm:
    """What was found in one file: the form that it looks most like, and all forms that it may have.

    `name` is None if the file is too short or too uniform to show its form.
    """

    path: Path
    name: str | None
    fits: frozenset[str]
    line: int = 1
    """Line that shows the form."""


def resolve_form(files: Sequence[Path], wanted: str, split_sentences: Callable[[str], list[str]]) -> str:
    """Return the form that all files have: `wanted`, or if that is "auto", the form that is detected.

    Every file is looked at. Raises `InputError` for the first that is not text, or differs from `wanted` or from most
    other files.
    """
    forms = [detect_form(path, split_sentences, is_given=wanted != "auto") for path in files]
    definite = [form for form in forms if form.name in TEXT_FORMS and form.name not in PLAIN_FORMS]
    if wanted != "auto":
        expected = set(PLAIN_FORMS) if wanted in PLAIN_FORMS else {wanted}
        for form in forms:
            if not form.fits & expected:
                raise InputError(
                    f"{form.path}: line {form.line}: found {_describe(form)}, expected {TEXT_FORMS[wanted]} as "
                    "--input-format says; change --input-format, or delete the file"
                )
        return wanted
    chosen = _most_common(definite or forms)
    if chosen is None:
        unclear = next((form.path for form in forms if len(form.fits) < len(TEXT_FORMS)), None)
        if unclear is None:
            raise InputError(f"{files[0].parent}: all files are blank; expected text")
        raise InputError(
            f"{unclear} has about one sentence per line and no blank lines between articles; add them, or give "
            "--input-format if each line is an article"
        )
    example = next(form for form in forms if form.name == chosen)
    for form in forms:
        if chosen not in form.fits:
            advice = "" if definite else ", or give --input-format to `bert-large corpus` to read all in the same way"
            raise InputError(
                f"{form.path}: line {form.line}: found {_describe(form)}, but {example.path} has "
                f"{TEXT_FORMS[chosen]}. Remove files that are not part of the text, and put files of different forms "
                f"in folders of their own{advice}"
            )
    return chosen


def _most_common(forms: Iterable[TextForm]) -> str | None:
    """Return the form of most files, None if no file shows one.

    Sentences can be read as paragraphs, which gives the same articles, but not the reverse.
    """
    names = Counter(form.name for form in forms if form.name is not None)
    if names["paragraphs"]:
        names["paragraphs"] += names.pop("sentences", 0)
    return names.most_common(1)[0][0] if names else None


def require_sentences(path: Path) -> None:
    """Raise `InputError` if a file for `prepare` or `vocab` is not plain text, which has one sentence per line."""
    _check_head(path)
    number, line = next(((number, line) for number, line in enumerate(read_lines(path), start=1) if line), (1, ""))
    found = foreign_form(line)
    if found or _MARKUP_START.match(line):
        raise InputError(
            f"{path}: line {number}: found {TEXT_FORMS[found] if found else 'XML or HTML'}, expected one sentence per "
            "line, with blank lines between articles; make such files with `bert-large corpus`"
        )


def detect_form(path: Path, split_sentences: Callable[[str], list[str]], *, is_given: bool = False) -> TextForm:
    """Return the form of a file by its first lines; raise `InputError` if it is not text.

    `is_given`: the user gave the form, so that only what certainly is not text is refused.
    """
    _check_head(path)
    lines = list(_sample(read_lines(path), _SAMPLE_CHARACTERS))
    first, line = next(((number, line) for number, line in enumerate(lines, start=1) if line), (1, ""))
    if found := foreign_form(line):
        return TextForm(path, found, frozenset([found]), first)
    if problem := _not_text(path, line, lines, is_given):
        raise InputError(f"{path}: line {first}: found {problem}")
    return _plain_form(path, lines, first, split_sentences)


def foreign_form(line: str) -> str | None:
    """Return "wikiextractor" or "json" if a line starts an article in that form, None if it is plain text."""
    if line.startswith(DOC_START):
        return "wikiextractor"
    if line.startswith("{") and line.endswith("}"):
        with contextlib.suppress(ValueError, RecursionError):
            content = json.loads(line)
            return "json" if isinstance(content, dict) and isinstance(content.get("text"), str) else None
    return None


def refuse_markup(lines: Iterable[str], path: Path) -> Iterator[str]:
    """Yield the lines of plain text; raise `InputError` at one that begins another form, such as a file appended."""
    for number, line in enumerate(lines, start=1):
        if line.startswith(("<", "{")) and (found := foreign_form(line) or _MARKUP_LINE.fullmatch(line)):
            other = TEXT_FORMS[found] if isinstance(found, str) else f"XML or HTML ({_MARKUP_ADVICE})"
            raise InputError(f"{path}: line {number}: found {other} after plain text; divide the file")
        yield line


def blocks_of(lines: Iterable[str]) -> Iterator[list[str]]:
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


def _sample(lines: Iterable[str], fewest_characters: int) -> Iterator[str]:
    characters = 0
    for line in itertools.islice(lines, _SAMPLE_LINES):
        yield line
        characters += len(line)
        if characters >= fewest_characters:
            return


def _check_head(path: Path) -> None:
    """Raise `InputError` if the first bytes show that a file is not UTF-8 text."""
    with open_decompressed(path) as file:
        head = file.read(_HEAD_BYTES)
    found = next((meaning for magic, meaning in _SIGNATURES if head.startswith(magic)), None)
    if head[_TAR_OFFSET:].startswith(_TAR_MAGIC):
        found = "a tar archive, expected UTF-8 text; unpack it"
    elif found is None and head.count(0) > _NUL_SHARE * len(head):
        found = "binary data, or UTF-16 text"
    if found:
        remedy = "" if ";" in found else ", expected UTF-8 text; convert the file, or delete it"
        raise InputError(f"{path}: line 1: found {found}{remedy}")


def _not_text(path: Path, first: str, lines: Sequence[str], is_given: bool) -> str | None:
    """Return what a file holds whose first line is `first`, and what to do about it; None if it may be text."""
    if _MARKUP_START.match(first):
        return f"XML or HTML, expected text; {_MARKUP_ADVICE}"
    if first in ("{", "[", "[{") or first.startswith(('{"', '[{"')):
        return 'JSON, expected one complete object with a field "text" on each line'
    if is_given:
        return None
    tag = _TAG.match(first)
    if tag and (tag[2] or any(f"</{tag[1]}>" in line for line in lines)):
        return f"the markup <{tag[1]}>, expected text; {_MARKUP_ADVICE}, or give --input-format if it is text"
    if plain_name(path).lower().endswith((".csv", ".tsv")) or _is_table(lines):
        return "a table of values (CSV or TSV), expected text; extract its text column, or give --input-format"
    return None


def _is_table(lines: Sequence[str]) -> bool:
    """Return whether all lines have the same number of tabs, or of commas or semicolons without a space behind."""
    rows = [line for line in lines if line][:100]
    for separator, fewest in (("\t", 1), (",", 2), (";", 2)):
        counts = {len(re.findall(rf"{separator}(?! )", row)) for row in rows}
        if len(rows) >= 3 and len(counts) == 1 and counts.pop() >= fewest:
            return True
    return False


def _plain_form(path: Path, lines: Sequence[str], first: int, split_sentences: Callable[[str], list[str]]) -> TextForm:
    """Return the form of a file of plain text.

    Blocks of several lines between blank ones are articles, of sentences or paragraphs. Otherwise, each line may be an
    article. Only clear cases exclude a form: real text has paragraphs of one sentence, and articles of one paragraph.
    """
    blocks = list(blocks_of(lines))
    count = sum(map(len, blocks))
    sample = list(_sample(filter(None, lines), _SPLIT_CHARACTERS))
    ratio = sum(len(split_sentences(line)) for line in sample) / max(1, len(sample))  # 0 for a blank file
    fits = set(PLAIN_FORMS)
    name: str | None
    if count == 0:
        name, fits = None, set(TEXT_FORMS)
    elif len(blocks) > 1:
        name = "sentences" if ratio < _LONG_LINES else "articles"
        if count >= _LINES_OF_ARTICLE * len(blocks):
            name, fits = ("sentences" if ratio < _LONG_LINES else "paragraphs"), {"sentences", "paragraphs"}
    else:
        name = None if ratio < _LONG_LINES else "articles"
        if ratio >= _CLEARLY_LONG_LINES:
            fits = {"articles"} if count > _MOST_PARAGRAPHS else {"articles", "paragraphs"}
    return TextForm(path, name, frozenset(fits), first)


def _describe(form: TextForm) -> str:
    return TEXT_FORMS[form.name] if form.name else "text of about one sentence per line"
