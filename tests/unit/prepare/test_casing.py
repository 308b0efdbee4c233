"""Which vocabularies are of lowercased text, and of text without accents."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bert_large.errors import InputError
from bert_large.prepare.casing import Casing, casing_of, resolve_casing
from bert_large.prepare.vocab import SPECIAL_TOKENS, read_vocab, write_vocab

CASES = Path(__file__).parents[4] / "shared" / "data" / "cases"


@pytest.mark.parametrize(
    ("tokens", "lower", "strip"),
    [
        (["alpha", "##beta", "中", "ς", "ß", "\u2028"], True, True),
        (["alpha", "[unused1]", "<S>", "<T>", "[MASK]"], True, True),
        (["alpha", "<S"], False, False),
        (["Alpha"], False, False),
        (["##É"], False, False),
        (["über", "strasse"], True, False),  # German, lowercased with its umlauts
        (["हिन्दी"], True, False),  # scripts without capitals keep their marks
        (["が", "ひ"], True, False),
        (["한국"], True, False),  # stripping would decompose it
        ([], True, True),
    ],
)
def test_casing_is_found_in_the_tokens(tokens: list[str], lower: bool, strip: bool) -> None:
    assert casing_of([*SPECIAL_TOKENS, *tokens]) == Casing(lower, strip)


@pytest.mark.skipif(not CASES.is_dir(), reason=f"needs {CASES}")
def test_googles_chinese_vocabulary_is_uncased() -> None:
    tokens = read_vocab(CASES / "chinese_vocab.txt").tokens
    assert (len(tokens), tokens[343], tokens[-1]) == (21128, "\u2028", "##😎")
    assert casing_of(tokens) == Casing(True, True)


@pytest.mark.parametrize(
    ("word", "beside", "given", "expected"),
    [
        ("alpha", None, (None, None), (True, True)),
        ("Alpha", None, (None, None), (False, False)),
        ("über", None, (None, None), (True, False)),
        ("über", None, (True, None), (True, True)),  # accents follow a given case, as in BERT
        ("über", None, (None, True), (True, True)),
        ("alpha", None, (False, True), (False, True)),
        ("alpha", {"do_lower_case": False}, (None, None), (False, False)),
        ("Alpha", {"do_lower_case": True}, (None, None), (True, True)),
        ("Alpha", {"do_lower_case": True, "strip_accents": None}, (None, None), (True, True)),
        ("Alpha", {"do_lower_case": True, "strip_accents": False}, (None, None), (True, False)),
        ("Alpha", {"do_lower_case": True, "strip_accents": False}, (None, True), (True, True)),
        ("alpha", {"do_lower_case": False, "strip_accents": False}, (True, None), (True, True)),
        ("alpha", {}, (None, None), (True, True)),
    ],
)
def test_given_values_win_then_the_configuration_then_the_tokens(
    tmp_path: Path,
    word: str,
    beside: dict[str, bool] | None,
    given: tuple[bool | None, bool | None],
    expected: tuple[bool, bool],
) -> None:
    write_vocab(tmp_path / "vocab.txt", [*SPECIAL_TOKENS, word])
    if beside is not None:
        (tmp_path / "tokenizer_config.json").write_text("\ufeff" + json.dumps(beside), encoding="utf-8")
    assert resolve_casing(tmp_path / "vocab.txt", *given) == Casing(*expected)


def test_an_invalid_configuration_is_named(tmp_path: Path) -> None:
    write_vocab(tmp_path / "vocab.txt", [*SPECIAL_TOKENS, "a"])
    for content in ("[]", "{", "\x00"):
        (tmp_path / "tokenizer_config.json").write_text(content)
        with pytest.raises(InputError, match=r"tokenizer_config\.json"):
            resolve_casing(tmp_path / "vocab.txt")
    assert resolve_casing(tmp_path / "vocab.txt", True) == Casing(True, True)  # not needed
