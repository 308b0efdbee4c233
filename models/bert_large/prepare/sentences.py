"""Paragraphs to clean sentences."""

from __future__ import annotations

import html
import unicodedata

from sentencex import segment

from bert_large.prepare.normalizer import CharacterTable

# For some scripts, the library's time grows with the square of the number of sentences. Paragraphs of prose are
# shorter.
MAX_CHARACTERS = 10_000


def clean(text: str) -> str:
    """Return `text` with HTML entities decoded, control and format characters removed, and single spaces.

    The tokenizer removes the same characters; removing them here keeps them from hiding the end of a sentence. Case,
    accents and punctuation stay.
    """
    return " ".join(html.unescape(text).translate(_CHARACTERS).split())


def split_sentences(text: str, language: str = "en") -> list[str]:
    """Return the sentences of a paragraph of clean text, split by the rules of a language (an ISO 639 code)."""
    sentences: list[str] = []
    start = 0
    while start < len(text):
        pieces = segment(language, text[start : start + MAX_CHARACTERS])
        if len(text) - start > MAX_CHARACTERS and len(pieces) > 1:
            pieces.pop()  # it may continue after the cut
        start += sum(map(len, pieces))
        sentences += (piece.strip() for piece in pieces)
    return [sentence for sentence in sentences if sentence]


def _replacement(character: str) -> str:
    if character.isspace():
        return " "
    # Cs: half of a surrogate pair, which JSON may contain.
    dropped = character == "\ufffd" or unicodedata.category(character) in ("Cc", "Cf", "Cs")
    return "" if dropped else character


_CHARACTERS = CharacterTable(_replacement)
