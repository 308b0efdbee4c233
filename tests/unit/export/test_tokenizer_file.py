"""The exported tokenizer against the one that makes records."""

from __future__ import annotations

import sys
import unicodedata
from pathlib import Path

import pytest
from bert_large.export.tokenizer_file import build_tokenizer
from bert_large.prepare.normalizer import TextNormalizer
from bert_large.prepare.tokenizer import WordPieceTokenizer
from bert_large.prepare.vocab import SPECIAL_TOKENS, Vocabulary
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

LETTERS = "abnrugiéeσς"  # noqa: RUF001
TOKENS = (*SPECIAL_TOKENS, *LETTERS, *"中,.'[", *(f"##{letter}" for letter in LETTERS), "A", "B", "##A", "mask")
VOCABULARY = Vocabulary(TOKENS, unk_id=1, cls_id=2, sep_id=3, mask_id=4)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Tokenizer]:
    """Both forms, lowered and not, after writing and reading their files."""
    tokenizers = {}
    for lower in (True, False):
        path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
        build_tokenizer(VOCABULARY, do_lower_case=lower, strip_accents=lower).save(str(path))
        tokenizers[lower] = Tokenizer.from_file(str(path))
    return tokenizers


ODD_TEXT = [
    "", " \t\r\n", "BANANA, runé.", "a" * 200, "a" * 201 + " b", "ΑΣ ΒΣ' ΣΣ Σ ΑΣ.Β 'ΑΣ\u0301Β A\u200bΣ", "a中b\u3000中",  # noqa: RUF001
    "\ue000\U000f0000 private", "a\u00adb a\u200db a\ufffdb a\x00b", "e\u0301 é É", "İ ß ﬁ", "😀 a😀",
    "a\u2028b\u0085c", "mask [mask] ##a", "ab''a..b", "\u0378a \ufdd0", "가 각", "a\u0300\u0327b",
]  # fmt: skip


@pytest.mark.parametrize("lower", [True, False])
def test_odd_text(exported: dict[bool, Tokenizer], lower: bool) -> None:
    expected = WordPieceTokenizer(VOCABULARY, do_lower_case=lower).encode(ODD_TEXT)
    for line, ids in zip(ODD_TEXT, expected, strict=True):
        assert exported[lower].encode(line, add_special_tokens=False).ids == ids, line


LOWERING = WordPieceTokenizer(VOCABULARY, do_lower_case=True)


@given(st.text(st.sampled_from("abnrugié中,.Σσ' \t\u0301\u200b\u0345AÉ[]")))
def test_any_text(exported: dict[bool, Tokenizer], line: str) -> None:
    assert exported[True].encode(line, add_special_tokens=False).ids == LOWERING.encode([line])[0]


@pytest.mark.slow
@pytest.mark.parametrize("lower", [True, False])
def test_every_character(exported: dict[bool, Tokenizer], lower: bool) -> None:
    """Equal within a word, except for letters of a newer Unicode than Python's and one decomposition."""
    normalize, tokenizer, differing = TextNormalizer(do_lower_case=lower), exported[lower], []
    for point in range(sys.maxunicode + 1):
        if 0xD800 <= point < 0xE000:
            continue
        line = f"a{chr(point)}b"
        words = tokenizer.pre_tokenizer.pre_tokenize_str(tokenizer.normalizer.normalize_str(line))
        if [word for word, _ in words] != normalize(line).split():
            differing.append(chr(point))
    assert [letter for letter in differing if unicodedata.category(letter) != "Cn" and letter != "\U00011938"] == []
    assert len(differing) < 100 if lower else not differing


def test_special_tokens_and_pairs(exported: dict[bool, Tokenizer]) -> None:
    """[MASK] in text is the special token; pairs have two segments."""
    encoding = exported[True].encode("a [MASK]", "b")
    assert encoding.tokens == ["[CLS]", "a", "[MASK]", "[SEP]", "b", "[SEP]"]
    assert encoding.type_ids == [0, 0, 0, 0, 1, 1]
    assert exported[True].decode([TOKENS.index("a"), TOKENS.index("##b")]) == "ab"


def test_private_use_characters_are_kept(exported: dict[bool, Tokenizer], tmp_path: Path) -> None:
    """A private-use character is a word; the library's own BERT rules drop it."""
    from tokenizers.normalizers import BertNormalizer

    assert BertNormalizer().normalize_str("a\ue000") == "a"
    assert exported[True].normalizer.normalize_str("a\ue000") == "a\ue000"
