from __future__ import annotations

import pytest
from bert_large.prepare.normalizer import IDEOGRAPH_RANGES, TextNormalizer
from hypothesis import given
from hypothesis import strategies as st
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from .reference_tokenizer import reference_words

normalize = TextNormalizer(do_lower_case=True)
normalize_cased = TextNormalizer(do_lower_case=False)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("Hello, World!", ["hello", ",", "world", "!"]),
        ("Ångström café naïve", ["angstrom", "cafe", "naive"]),
        ("a中b 文字", ["a", "中", "b", "文", "字"]),
        ("かな が", ["かな", "か"]),  # kana are letters, and the voicing mark an accent
        ("x\u200by\u00adz\u200d", ["xyz"]),  # zero-width space, soft hyphen and joiner go without a gap
        ("a\x00b\x07c\ufffdd\x85e", ["abcde"]),
        ("a\tb\u00a0c\u3000d\u2028e\rf", ["a", "b", "c", "d", "e", "f"]),
        ("ok 😀👍🏽", ["ok", "😀👍🏽"]),
        ("ΟΔΟΣ ΣΑΣ.", ["οδος", "σας", "."]),  # a final sigma is another letter
        ("ΔΣ\x07Δ", ["δσδ"]),  # and what follows after cleaning says if it is final
        ("İstanbul STRASSE ẞ", ["istanbul", "strasse", "ß"]),
        ("$5 ^ `x` ~ | <y>=«z»", ["$", "5", "^", "`", "x", "`", "~", "|", "<", "y", ">", "=", "«", "z", "»"]),
        ("\ue000 private", ["\ue000", "private"]),
        ("[MASK] [unused5]", ["[", "mask", "]", "[", "unused5", "]"]),
        ("", []),
        ("\u200b \x01", []),
    ],
)
def test_words_of_odd_text(line: str, words: list[str]) -> None:
    assert normalize(line).split() == words
    assert reference_words(line, do_lower_case=True) == words


def test_cased_text_keeps_case_and_accents() -> None:
    assert normalize_cased("Café, ΟΔΟΣ 中X").split() == ["Café", ",", "ΟΔΟΣ", "中", "X"]
    assert normalize_cased("e\u0301") == "e\u0301"


@given(st.text())
def test_equals_reference(line: str) -> None:
    assert normalize(line).split() == reference_words(line, do_lower_case=True)
    assert normalize_cased(line).split() == reference_words(line, do_lower_case=False)


def test_equals_reference_on_all_of_unicode() -> None:
    """Every character of the basic plane, a sample of the others, and the limits of the ideograph ranges."""
    ends = [end + step for ends in IDEOGRAPH_RANGES for end in ends for step in (-1, 0, 1)]
    for code_point in [*range(0xD800), *range(0xE000, 0x10000), *range(0x10000, 0x110000, 97), *ends]:
        line = f"A{chr(code_point)}b"
        assert normalize(line).split() == reference_words(line, do_lower_case=True), hex(code_point)


@given(st.text(st.characters(max_codepoint=0x24F, exclude_categories=["Co", "Cn"])))
def test_equals_rust_normalizer_on_latin_text(line: str) -> None:
    rust = BertPreTokenizer().pre_tokenize_str(BertNormalizer(lowercase=True).normalize_str(line))
    assert normalize(line).split() == [word for word, _ in rust]
