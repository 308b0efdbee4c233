"""Whether text is lowercased and stripped of accents for a vocabulary."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from bert_large.prepare.tokenizer_files import TOKENIZER_CONFIG_FILE, TOKENIZER_FILE, read_normalizer
from bert_large.prepare.vocab import CONTINUATION, read_vocab
from bert_large.storage.atomic import read_json

_SPECIAL = re.compile(r"\[.*\]|<.*>")
"""Tokens that never result from text, such as [unused1] or <S>: their case has no meaning."""


@dataclass(frozen=True, slots=True)
class Casing:
    """What is done with the letters of text before it is split into WordPiece tokens."""

    do_lower_case: bool
    strip_accents: bool
    reason: str = field(default="as given", compare=False)

    @property
    def letters(self) -> dict[str, bool]:
        """Both settings by name."""
        return {"do_lower_case": self.do_lower_case, "strip_accents": self.strip_accents}

    @property
    def description(self) -> str:
        """Both settings in words."""
        letters = "lowercased" if self.do_lower_case else "cased"
        return f"{letters}, accents {'stripped' if self.strip_accents else 'kept'}"

    def __str__(self) -> str:
        return f"{self.description} ({self.reason})"


def resolve_casing(vocab_file: Path, do_lower_case: bool | None = None, strip_accents: bool | None = None) -> Casing:
    """Return how text is treated for a vocabulary.

    A given value wins. Otherwise `tokenizer_config.json` beside the vocabulary (as in model folders) decides, or else
    the normalizer of `tokenizer.json` there; without them, the tokens themselves do. If only one of both is given,
    accents are stripped if and only if text is lowercased, as in BERT. Raises `DamageError` if the configuration is
    invalid.
    """
    reason = "as given"
    if do_lower_case is None:
        source = vocab_file.parent / TOKENIZER_CONFIG_FILE
        configured = read_json(source) if source.exists() else {}
        if not isinstance(configured.get("do_lower_case"), bool):
            source = vocab_file.parent / TOKENIZER_FILE
            configured = read_normalizer(source.parent)
        do_lower_case = configured.get("do_lower_case")
        if isinstance(do_lower_case, bool):
            reason = f"as in {source}"
            if strip_accents is None and isinstance(configured.get("strip_accents"), bool):
                strip_accents = configured["strip_accents"]
        else:
            vocabulary = read_vocab(vocab_file)
            casing = casing_of(token for token in vocabulary.tokens if token not in vocabulary.added)
            do_lower_case, reason = casing.do_lower_case, casing.reason
            strip_accents = casing.strip_accents if strip_accents is None else strip_accents
    return Casing(do_lower_case, do_lower_case if strip_accents is None else strip_accents, reason)


def casing_of(tokens: Iterable[str]) -> Casing:
    """Return the casing of the text that a vocabulary was made from.

    The text is taken to have been lowercased if no token would change under lowercasing, and stripped of accents if, in
    addition, no token would change under stripping. Scripts without capitals but with combining marks therefore keep
    their marks. Special tokens do not count.
    """
    words = [token.removeprefix(CONTINUATION) for token in tokens if not _SPECIAL.fullmatch(token)]
    capitals = [word for word in words if word.lower() != word]
    if capitals:
        return Casing(False, False, f"tokens of the vocabulary with capitals: {len(capitals)}, such as {capitals[0]!r}")
    accented = [word for word in words if _strip(word) != word]
    if accented:
        return Casing(
            True, False, f"no token has capitals; tokens with accents: {len(accented)}, such as {accented[0]!r}"
        )
    return Casing(True, True, "no token of the vocabulary has capitals or accents")


def _strip(word: str) -> str:
    decomposed = unicodedata.normalize("NFD", word)
    return "".join(character for character in decomposed if unicodedata.category(character) != "Mn")
