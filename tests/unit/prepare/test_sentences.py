from __future__ import annotations

import pytest
from bert_large.prepare import sentences
from bert_large.prepare.sentences import clean, split_sentences
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("AT&amp;T  said\t&quot;no&quot;.", 'AT&T said "no".'),
        ("a&nbsp;b\u3000c\x0bd\x85e", "a b c d e"),
        ("x\u200by\u00adz\ufeff\x07\ufffd&#0;", "xyz"),
        ("Café ÅNGSTRÖM “ok” 😀 中文", "Café ÅNGSTRÖM “ok” 😀 中文"),  # what has a meaning stays
        ("\u200b \n", ""),
    ],
)
def test_clean(text: str, expected: str) -> None:
    assert clean(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Dr. Smith came. He left at 3 p.m. on Monday!", ["Dr. Smith came.", "He left at 3 p.m. on Monday!"]),
        ("It cost $3.5 million, i.e. too much. Why?", ["It cost $3.5 million, i.e. too much.", "Why?"]),
        ("no end", ["no end"]),
        ("", []),
    ],
)
def test_sentences(text: str, expected: list[str]) -> None:
    assert split_sentences(text) == expected


def test_language_matters() -> None:
    assert split_sentences("Am 3. Mai kam er.", "de") == ["Am 3. Mai kam er."]


def test_long_paragraphs_are_cut_where_short_ones_are(monkeypatch: pytest.MonkeyPatch) -> None:
    text = " ".join(f"This is sentence number {number}, by A. Nobody." for number in range(300))
    whole = split_sentences(text)
    monkeypatch.setattr(sentences, "MAX_CHARACTERS", 500)
    assert split_sentences(text) == whole
    assert len(whole) == 300
    assert split_sentences("x" * 1200) == ["x" * 500, "x" * 500, "x" * 200]  # as nothing else can be done


@given(st.text(st.sampled_from("ab AB.!?\"'()“”。中\u3000é1")), st.integers(3, 40))
def test_nothing_is_lost(text: str, limit: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sentences, "MAX_CHARACTERS", limit)
        found = split_sentences(clean(text))
    assert "".join("".join(found).split()) == "".join(text.split())
