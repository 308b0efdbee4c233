"""A plain implementation of BERT's tokenizer, and a tiny vocabulary."""

from __future__ import annotations

import unicodedata

from bert_large.prepare.vocab import SPECIAL_TOKENS

LETTERS = "abcdefghijklmnopqrstuvwxyz"
GREEK = ("ς", "σ", "##ς", "##σ")  # noqa: RUF001
WORDS = ("alpha", "beta", "gamma", "delta", "run", "##ning", "##ner", "un", "##run", "中", *GREEK)
TOKENS = (*SPECIAL_TOKENS, *LETTERS, *(f"##{letter}" for letter in LETTERS), *WORDS, *",.!?-'[]")


def reference_words(line: str, *, do_lower_case: bool) -> list[str]:
    """Split a line as google-research/bert does, one character at a time."""
    cleaned = "".join(map(_clean, line))
    words = []
    for word in cleaned.split():
        if do_lower_case:
            decomposed = unicodedata.normalize("NFD", word.lower())
            word = "".join(character for character in decomposed if unicodedata.category(character) != "Mn")
        words += "".join(f" {c} " if _is_punctuation(c) else c for c in word).split()
    return words


def reference_pieces(word: str, tokens: tuple[str, ...]) -> list[str]:
    """Split a word into the longest pieces from its start; [UNK] if that fails or it has over 200 characters."""
    pieces: list[str] = []
    start = 0
    while start < len(word) <= 200:
        prefix = "##" if start else ""
        fitting = [stop for stop in range(len(word), start, -1) if prefix + word[start:stop] in tokens]
        if not fitting:
            break
        pieces.append(prefix + word[start : fitting[0]])
        start = fitting[0]
    return pieces if start == len(word) else ["[UNK]"]


def _clean(character: str) -> str:
    code, category = ord(character), unicodedata.category(character)
    if character in " \t\n\r" or category == "Zs":
        return " "
    if code in (0, 0xFFFD) or category in ("Cc", "Cf"):
        return ""
    blocks = ((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F))
    more = ((0x2B820, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F))
    return f" {character} " if any(low <= code <= high for low, high in blocks + more) else character


def _is_punctuation(character: str) -> bool:
    code = ord(character)
    is_ascii = 33 <= code <= 47 or 58 <= code <= 64 or 91 <= code <= 96 or 123 <= code <= 126
    return is_ascii or unicodedata.category(character).startswith("P")
