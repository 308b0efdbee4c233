"""The encoding of text files, given or detected, and their lines as Unicode; bytes that do not fit are counted."""

from __future__ import annotations

import codecs
import io
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bert_large.errors import InputError
from bert_large.extras import import_extra
from bert_large.prepare.compressed import open_decompressed
from bert_large.prepare.text_files import MAX_LINE_BYTES

LINE_FEED, ANY_LINE_END = "\n", ""
"""What ends a line, as `newline` of Python's `open`: with `ANY_LINE_END`, also carriage returns, which are kept."""
_SAMPLE_BYTES = 1 << 18
_BYTE_ORDER_MARKS = (  # that of UTF-16 begins that of UTF-32
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_MARK = "\udc80"
"""Stands for bytes that cannot be decoded. Decoders never return it: it is half of a surrogate pair."""
_CONTROL = re.compile("[\0-\x08\x0e-\x1a\x1c-\x1f\x7f]")
_CONTROL_SHARE = 0.05
"""Share of control characters above which data is binary. Text has hardly any."""
_DAMAGED_SHARE, _FEWEST_DAMAGED = 0.01, 100
"""Share of undecodable characters above which the encoding is certainly wrong, and the fewest to judge by."""
_WINDOWS = {"iso-8859-1": "cp1252", "latin-1": "cp1252", "ascii": "cp1252"}
"""Encodings that are decoded as their superset, as browsers do (WHATWG's Encoding Standard)."""

codecs.register_error("bert_large.mark", lambda error: (_MARK, error.end))  # type: ignore[attr-defined]


@dataclass
class Replaced:
    """The places of a file's text that could not be decoded and became U+FFFD."""

    count: int = 0
    first_line: int = 0


def is_encoding(name: str) -> bool:
    """Return whether Python can decode text of this encoding."""
    try:
        b"abcd".decode(name, "replace")  # of a length that all encodings divide
    except (LookupError, UnicodeError, ValueError):
        return False
    return True


def resolve_encoding(path: Path, given: str | None) -> str:
    """Return the encoding of a text file, if it is not `given`; raise `InputError` for binary data.

    A byte order mark decides. Otherwise it is UTF-8 if nearly all of the bytes beyond ASCII are, else what `chardet`
    finds most likely in the first 256 KiB.
    """
    with open_decompressed(path) as file:
        sample = file.read(_SAMPLE_BYTES)
    if given is not None:
        if _is_binary(sample.decode(given, "replace")):
            raise InputError(f"{path}: line 1: found binary data, expected text in --encoding {given}; delete the file")
        return given
    for mark, encoding in _BYTE_ORDER_MARKS:
        if sample.startswith(mark):
            return encoding
    text = codecs.getincrementaldecoder("utf-8")("bert_large.mark").decode(sample)
    if text.count(_MARK) <= 0.1 * sum(not character.isascii() for character in text) and not _is_binary(text):
        return "utf-8"
    line = text.count("\n", 0, max(0, text.find(_MARK))) + 1
    purpose = f"{path}: line {line}: text that is not UTF-8, without --encoding,"
    chardet = import_extra(purpose, "text", "chardet")
    found = str(chardet.detect(sample)["encoding"] or "").lower()
    encoding = _WINDOWS.get(found, found)
    if not is_encoding(encoding) or _is_binary(sample.decode(encoding, "replace")):
        raise InputError(
            f"{path}: line {line}: found binary data, or text whose encoding cannot be detected; give --encoding if it "
            "is text, or delete the file"
        )
    return encoding


def _is_binary(text: str) -> bool:
    return len(_CONTROL.findall(text)) > _CONTROL_SHARE * len(text)


def read_text(
    path: Path, encoding: str, replaced: Replaced | None = None, *, newline: str = LINE_FEED
) -> Iterator[str]:
    """Yield the lines of a file with their ends, decompressed and without a byte order mark.

    `newline` is what ends a line: a line feed alone, because sentences can hold carriage returns, or `ANY_LINE_END`.
    Bytes that cannot be decoded become U+FFFD and are counted in `replaced`. Raises `InputError` if there are many, for
    a file that cannot be read or is damaged, and for a line of more than `MAX_LINE_BYTES` characters.
    """
    replaced = Replaced() if replaced is None else replaced
    characters = 0
    with open_decompressed(path) as file:
        lines = io.TextIOWrapper(file, encoding, errors="bert_large.mark", newline=newline)
        for number in itertools.count(1):
            line = lines.readline(MAX_LINE_BYTES)
            if not line:
                return
            if len(line) == MAX_LINE_BYTES and not line.endswith("\n"):
                raise InputError(
                    f"{path}: line {number} has more than {MAX_LINE_BYTES} characters; is it a text file? Divide the "
                    "line, or delete the file"
                )
            characters += len(line)
            if _MARK in line:
                replaced.count += line.count(_MARK)
                replaced.first_line = replaced.first_line or number
                line = line.replace(_MARK, "\ufffd")
                if replaced.count > max(_FEWEST_DAMAGED, _DAMAGED_SHARE * characters):
                    raise InputError(
                        f"{path}: line {number}: {replaced.count} of {characters} characters so far are not "
                        f"{encoding}, the first in line {replaced.first_line}; give another --encoding, or delete "
                        "the file"
                    )
            yield line.removeprefix("\ufeff") if number == 1 else line
