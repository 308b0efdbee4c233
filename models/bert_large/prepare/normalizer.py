"""Text to words as BERT's reference tokenizer splits them (google-research/bert, tokenization.py, BasicTokenizer).

Python's Unicode tables and lower-casing are used, as the reference does. The normalizer of `tokenizers` differs from
it on 138,000 code points (it drops private-use characters, for one) and on every capitalised Greek word that ends in
a sigma; and it is slower.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

# Ideographs that stand as words of their own; kana and hangul are written like letters and do not belong here.
IDEOGRAPH_RANGES = (
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2CEAF),
    (0x2F800, 0x2FA1F),
)
ASCII_PUNCTUATION = frozenset("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")


class CharacterTable(dict[int, str]):
    """A table for `str.translate` that works out an entry when its character is first met."""

    def __init__(self, replacement: Callable[[str], str]) -> None:
        self._replacement = replacement

    def __missing__(self, code_point: int) -> str:
        self[code_point] = self._replacement(chr(code_point))
        return self[code_point]


class TextNormalizer:
    """Turns a line into its words: `normalizer(line).split()`.

    Control and format characters go, ideographs and punctuation stand apart; with
    `do_lower_case`, letters are lowered and lose their accents.
    """

    def __init__(self, *, do_lower_case: bool) -> None:
        self._do_lower_case = do_lower_case
        self._clean = CharacterTable(_clean_character)
        self._split = CharacterTable(_split_without_accents if do_lower_case else _split_character)

    def __call__(self, line: str) -> str:
        """Return `line` normalized, its words separated by whitespace."""
        text = line.translate(self._clean)
        if self._do_lower_case:
            # Lower-casing comes before decomposition, and on cleaned text: a final sigma depends on what follows.
            text = unicodedata.normalize("NFD", text.lower())
        return text.translate(self._split)


def _clean_character(character: str) -> str:
    if character in "\t\n\r":  # of category Cc, but they separate words, as all other whitespace does by itself
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
