from __future__ import annotations

import pytest
from bert_large.prepare.tokenizer import WordPieceTokenizer
from bert_large.prepare.vocab import Vocabulary
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


def test_cased_vocabulary_sees_capitals() -> None:
    cased = WordPieceTokenizer(VOCABULARY, do_lower_case=False)
    assert cased.encode(["alpha Alpha"]) == [[TOKENS.index("alpha"), VOCABULARY.unk_id]]


@given(st.text(st.sampled_from("abnrugié中,.Σ \t\u0301\u200bA")))
def test_equals_reference(line: str) -> None:
    words = reference_words(line, do_lower_case=True)
    assert pieces(line) == [piece for word in words for piece in reference_pieces(word, TOKENS)]
