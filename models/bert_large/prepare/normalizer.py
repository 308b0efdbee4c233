"""Text to words as BERT's reference tokenizer splits them (google-research/bert, tokenization.py, BasicTokenizer).

Like the reference, this uses Python's Unicode tables and `str.lower`. The normalizer of `tokenizers` differs from the
reference on 138,000 code points (for example, it drops private-use characters) and on every capitalized Greek word that
ends in a sigma; it is also slower.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

# Ideographs, each of which is a word. Kana and hangul are not among them: the reference treats them like letters.
IDEOGRAPH_RANGES = (
    (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF),
    (0x20000, 0x2A6DF), (0x2A700, 0x2CEAF), (0x2F800, 0x2FA1F),
)  # fmt: skip
ASCII_PUNCTUATION = frozenset("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")


class CharacterTable(dict[int, str]):
    """A table for `str.translate` that computes an entry when its character first occurs."""

    def __init__(self, replacement: Callable[[str], str]) -> None:
        self._replacement = replacement

    def __missing__(self, code_point: int) -> str:
        self[code_point] = self._replacement(chr(code_point))
        return self[code_point]


class TextNormalizer:
    """Converts a line to words: `normalizer(line).split()`.

    Control and format characters are removed; ideographs and punctuation become words. With `do_lower_case`, letters
    are lowercased; with `strip_accents` (by default as `do_lower_case`, as in BERT), nonspacing marks are removed.
    """

    def __init__(self, *, do_lower_case: bool, strip_accents: bool | None = None) -> None:
        self._do_lower_case = do_lower_case
        self._strip_accents = do_lower_case if strip_accents is None else strip_accents
        self._clean = CharacterTable(_clean_character)
        self._split = CharacterTable(_split_without_accents if self._strip_accents else _split_character)

    def __call__(self, line: str) -> str:
        """Return the words of `line`, separated by white space."""
        text = line.translate(self._clean)
        if self._do_lower_case:
            # Before decomposition, and on cleaned text: whether a sigma is final depends on the characters around it.
            text = text.lower()
        if self._strip_accents:
            text = unicodedata.normalize("NFD", text)
        return text.translate(self._split)


def _clean_character(character: str) -> str:
    if character in "\t\n\r":  # of category Cc, but they separate words; `str.split` handles all other white space
        return " "
    if unicodedata.category(character) in ("Cc", "Cf") or character == "\ufffd":
        return ""
    if any(first <= ord(character) <= last for first, last in IDEOGRAPH_RANGES):
        return f" {character} "
    return character


def _split_character(character: str) -> str:
    if character in ASCII_PUNCTUATION or unicodedata.category(character).startswith("P"):
        return f" {character} "
    return character


def _split_without_accents(character: str) -> str:
    return "" if unicodedata.category(character) == "Mn" else _split_character(character)
