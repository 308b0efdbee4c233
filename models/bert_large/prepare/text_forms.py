"""The form of text files: detected for each file, so that no file is read as something that it is not."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bert_large.errors import InputError
from bert_large.extras import import_extra
from bert_large.prepare.compressed import open_decompressed, plain_name
from bert_large.prepare.settings import DEFAULT_TEXT_FIELD, TEXT_FORMS, CorpusSettings
from bert_large.prepare.table_files import PARQUET_MAGIC, check_column, check_parquet, missing_field, names_column
from bert_large.prepare.text_encoding import read_text, resolve_encoding
from bert_large.prepare.text_files import read_lines

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
    (b"{\\rtf", "an RTF document"),
    (b"\xd0\xcf\x11\xe0", "a Microsoft Office document"),
    (b"SQLite format 3", "an SQLite database"),
    (b"ARROW1", "an Arrow file"),
    (b"Obj\x01", "an Avro file"),
    (b"\x89HDF", "an HDF5 file"),
)
_CONVERT = "`bert-large corpus` converts it"
_NOT_SENTENCES = (
    (PARQUET_MAGIC, f"a Parquet table; {_CONVERT}"),
    (b"\xff\xfe\0\0", f"UTF-32 text, expected UTF-8; {_CONVERT}"),
    (b"\0\0\xfe\xff", f"UTF-32 text, expected UTF-8; {_CONVERT}"),
    (b"\xff\xfe", f"UTF-16 text, expected UTF-8; {_CONVERT}"),
    (b"\xfe\xff", f"UTF-16 text, expected UTF-8; {_CONVERT}"),
)
"""Starts of files that only `corpus` reads."""
_TAR_OFFSET, _TAR_MAGIC = 257, b"ustar"
_NUL_SHARE = 0.1
"""Share of zero bytes above which a file is not UTF-8: UTF-16 has about half. Single ones occur in crawled text."""
_MARKUP_START = re.compile(r"<(\?xml|!doctype|html|mediawiki)\b", re.IGNORECASE)
_MARKUP_LINE = re.compile(r"<(\?xml|!doctype|html|mediawiki)\b.*>", re.IGNORECASE)
"""A line of markup alone; a sentence may begin with a tag, but does not end with one."""
_TAG = re.compile(r"""<([A-Za-z][\w:.-]*)(\s+[\w:.-]+\s*=\s*["'][^<]*)?\s*>""")
_MARKUP_ADVICE = "extract its text first"
_DUMP_START = re.compile(r"(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)?<mediawiki\b", re.IGNORECASE | re.DOTALL)
_TABLE_SUFFIXES = (".csv", ".tsv", ".tab")
_WITH_FIELD = ("csv", "json", "parquet")
_WITH_ENCODING = ("mediawiki", "parquet")
"""Forms whose files state or fix their encoding."""


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
    encoding: str = "utf-8"


def resolve_forms(
    files: Sequence[Path], settings: CorpusSettings, split_sentences: Callable[[str], list[str]]
) -> tuple[str, dict[Path, str]]:
    """Return the form that all files have, and the encoding of each: those of `settings`, or those that are detected.

    Every file is looked at. Raises `InputError` for the first that is not text, lacks the field with the text, or
    differs from the given form or from most other files, and for settings that have no meaning for the form.
    """
    forms = [detect_form(path, settings, split_sentences) for path in files]
    form = _resolve_form(forms, settings.input_format)
    if settings.text_field is not None and form not in _WITH_FIELD:
        raise InputError(
            f"--text-field is {settings.text_field!r}, but the input format {form} ({TEXT_FORMS[form]}) has no fields; "
            "leave it out, or give --input-format"
        )
    if settings.encoding is not None and form in _WITH_ENCODING:
        raise InputError(f"--encoding is {settings.encoding!r}, but {form} files state their encoding; leave it out")
    return form, {form.path: form.encoding for form in forms}


def _resolve_form(forms: Sequence[TextForm], wanted: str) -> str:
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
            raise InputError(f"{forms[0].path.parent}: all files are blank; expected text")
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
    head = _check_head(path, (*_SIGNATURES, *_NOT_SENTENCES))
    if head.count(0) > _NUL_SHARE * len(head):
        raise InputError(f"{path}: line 1: found binary data, or UTF-16 text, expected UTF-8 text; delete the file")
    number, line = next(((number, line) for number, line in enumerate(read_lines(path), start=1) if line), (1, ""))
    found = foreign_form(line)
    if found or _MARKUP_START.match(line):
        raise InputError(
            f"{path}: line {number}: found {TEXT_FORMS[found] if found else 'XML or HTML'}, expected one sentence per "
            "line, with blank lines between articles; make such files with `bert-large corpus`"
        )


def detect_form(path: Path, settings: CorpusSettings, split_sentences: Callable[[str], list[str]]) -> TextForm:
    """Return the form of a file by its first lines; raise `InputError` if it is not text.

    If the settings give the form, only what certainly is not text is refused.
    """
    field, wanted = settings.text_field or DEFAULT_TEXT_FIELD, settings.input_format
    is_given = wanted != "auto"
    if _check_head(path, _SIGNATURES).startswith(PARQUET_MAGIC):
        check_parquet(path, field)
        return TextForm(path, "parquet", frozenset(["parquet"]))
    encoding = resolve_encoding(path, settings.encoding)
    lines = list(_sample(map(str.strip, read_text(path, encoding)), _SAMPLE_CHARACTERS))
    first, line = next(((number, line) for number, line in enumerate(lines, start=1) if line), (1, ""))
    found = foreign_form(line, field)
    if _DUMP_START.match("\n".join(lines[first - 1 : first + 9])):
        import_extra(f"{path}: a MediaWiki dump", "text", "mwparserfromhell")
        found = "mediawiki"
    elif not found and (wanted == "csv" or (not is_given and _looks_like_table(path, lines, field))):
        check_column(path, field, encoding)
        found = "csv"
    if found:
        return TextForm(path, found, frozenset([found]), first, encoding)
    if problem := _not_text(path, line, lines, is_given):
        raise InputError(f"{path}: line {first}: found {problem}")
    if names := _names_of(line):
        raise missing_field(path, f"line {first}", "field", field, names)
    return replace(_plain_form(path, lines, first, split_sentences), encoding=encoding)


def foreign_form(line: str, field: str = DEFAULT_TEXT_FIELD) -> str | None:
    """Return "wikiextractor" or "json" if a line starts an article in that form, None if it is plain text."""
    if line.startswith(DOC_START):
        return "wikiextractor"
    return "json" if field in _names_of(line) else None


def _names_of(line: str) -> list[str]:
    """Return the names of the fields of a line that is a JSON object, empty for other lines."""
    if line.startswith("{") and line.endswith("}"):
        with contextlib.suppress(ValueError, RecursionError):
            content = json.loads(line)
            return list(content) if isinstance(content, dict) else []
    return []


def refuse_markup(lines: Iterable[str], path: Path) -> Iterator[str]:
    """Yield the lines of plain text; raise `InputError` at one that begins another form, such as a file appended."""
    for number, line in enumerate(lines, start=1):
        if line.startswith(("<", "{")) and (found := foreign_form(line) or _MARKUP_LINE.fullmatch(line)):
            other = TEXT_FORMS[found] if isinstance(found, str) else f"XML or HTML ({_MARKUP_ADVICE})"
            raise InputError(f"{path}: line {number}: found {other} after plain text; divide the file")
        yield line


def blocks_of(lines: Iterable[str], most_characters: int | None = None) -> Iterator[list[str]]:
    """Yield the lines between blank ones; a block that reaches `most_characters` ends there."""
    block: list[str] = []
    size = 0
    for line in lines:
        block += [line] if line else []
        size += len(line)
        if block and (not line or (most_characters is not None and size >= most_characters)):
            yield block
            block, size = [], 0
    if block:
        yield block


def _sample(lines: Iterable[str], fewest_characters: int) -> Iterator[str]:
    characters = 0
    for line in itertools.islice(lines, _SAMPLE_LINES):
        yield line
        characters += len(line)
        if characters >= fewest_characters:
            return


def _check_head(path: Path, signatures: Iterable[tuple[bytes, str]]) -> bytes:
    """Return the first bytes of a file; raise `InputError` if they show that it is not text."""
    with open_decompressed(path) as file:
        head = file.read(_HEAD_BYTES)
    found = next((meaning for magic, meaning in signatures if head.startswith(magic)), None)
    if head[_TAR_OFFSET:].startswith(_TAR_MAGIC):
        found = "a tar archive, expected text; unpack it"
    if found:
        remedy = "" if ";" in found else ", expected text; convert the file, or delete it"
        raise InputError(f"{path}: line 1: found {found}{remedy}")
    return head


def _not_text(path: Path, first: str, lines: Sequence[str], is_given: bool) -> str | None:
    """Return what a file holds whose first line is `first`, and what to do about it; None if it may be text."""
    if _MARKUP_START.match(first):
        return f"XML or HTML, expected text; {_MARKUP_ADVICE}"
    if first in ("{", "[", "[{") or (first.startswith(('{"', '[{"')) and not _names_of(first)):
        return "JSON, expected one complete object on each line"
    if is_given:
        return None
    tag = _TAG.match(first)
    if tag and (tag[2] or any(f"</{tag[1]}>" in line for line in lines)):
        return f"the markup <{tag[1]}>, expected text; {_MARKUP_ADVICE}, or give --input-format if it is text"
    return None


def _looks_like_table(path: Path, lines: Sequence[str], field: str) -> bool:
    """Return whether a file is named as a table, its first line names the column `field`, or its lines are alike.

    That is, they have equal numbers of tabs, or of commas or semicolons without a space after them.
    """
    if plain_name(path).lower().endswith(_TABLE_SUFFIXES):
        return any(lines)
    if names_column(next(filter(None, lines), ""), field):
        return True
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
