from __future__ import annotations

import pytest
from bert_large.export.tokenizer_file import build_tokenizer
from bert_large.prepare.tokenizer import WordPieceTokenizer
from bert_large.prepare.vocab import SPECIAL_TOKENS, Vocabulary
from hypothesis import given
from hypothesis import strategies as st

from .reference_tokenizer import TOKENS, reference_pieces, reference_words

VOCABULARY = Vocabulary(TOKENS, unk_id=1, cls_id=2, sep_id=3, mask_id=4)
tokenizer = WordPieceTokenizer(VOCABULARY, do_lower_case=True)


def pieces(line: str) -> list[str]:
    (ids,) = tokenizer.encode([line])
    return [TOKENS[index] for index in ids]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("Running unrunner!", ["run", "##ning", "un", "##run", "##ner", "!"]),
        ("zz alphax", ["z", "##z", "alpha", "##x"]),
        ("a中b 文", ["a", "中", "b", "[UNK]"]),
        ("😀 a😀", ["[UNK]", "[UNK]"]),  # one character that cannot be cut makes the word unknown
        ("ΣΣ", ["σ", "##ς"]),  # noqa: RUF001
        ("[MASK]", ["[", "m", "##a", "##s", "##k", "]"]),  # text cannot hold special tokens
        ("a" * 200, ["a"] + ["##a"] * 199),
        ("a" * 201 + " b", ["[UNK]", "b"]),
        ("", []),
        ("\u200b\x02", []),
    ],
)
def test_pieces(line: str, expected: list[str]) -> None:
    assert pieces(line) == expected


def test_batch_keeps_lines_apart_and_in_order() -> None:
    assert tokenizer.encode(["alpha", "", "beta alpha"]) == [
        [TOKENS.index("alpha")],
        [],
        [TOKENS.index("beta"), TOKENS.index("alpha")],
    ]
    assert tokenizer.encode([]) == []


@pytest.mark.parametrize(
    ("lower", "strip", "expected"),
    [
        (True, None, ["a", "e", "e"]),
        (True, True, ["a", "e", "e"]),
        (True, False, ["a", "é", "é"]),
        (False, None, ["A", "É", "é"]),
        (False, True, ["A", "E", "e"]),
    ],
)
def test_lowercasing_and_accent_stripping_are_independent(lower: bool, strip: bool | None, expected: list[str]) -> None:
    """For records and for an exported tokenizer."""
    vocabulary = Vocabulary((*SPECIAL_TOKENS, *"aAeEéÉ"), unk_id=1, cls_id=2, sep_id=3, mask_id=4)
    (ids,) = WordPieceTokenizer(vocabulary, do_lower_case=lower, strip_accents=strip).encode(["A É é"])
    assert [vocabulary.tokens[index] for index in ids] == expected
    exported = build_tokenizer(vocabulary, do_lower_case=lower, strip_accents=lower if strip is None else strip)
    assert exported.encode("A É é", add_special_tokens=False).ids == ids


@given(st.text(st.sampled_from("abnrugié中,.Σ \t\u0301\u200bA")))
def test_equals_reference(line: str) -> None:
    words = reference_words(line, do_lower_case=True)
    assert pieces(line) == [piece for word in words for piece in reference_pieces(word, TOKENS)]
