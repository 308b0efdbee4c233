"""`prepare` on unusual text and under many settings, against a second, naive implementation of the reference's rules.

The naive implementation is trusted because it makes MLCommons' sample records. The tokenizer is also compared with that
of `transformers`.
"""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from bert_large.data.formats.tfrecord import decode_record, iterate_payloads
from bert_large.data.record import Record, RecordShape
from bert_large.errors import InputError
from bert_large.prepare.casing import Casing
from bert_large.prepare.settings import InstanceSettings
from bert_large.prepare.shards import ShardTask, write_shard
from bert_large.prepare.tokenizer import WordPieceTokenizer
from bert_large.prepare.vocab import Vocabulary, read_vocab
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from . import naive_preparation as naive

DATA = Path(__file__).parents[3] / "shared" / "data"
SAMPLE = DATA / "mlcommons_sample"
needs_sample = pytest.mark.skipif(not SAMPLE.is_dir(), reason=f"needs MLCommons' sample data in {SAMPLE}")

LETTERS = "abcdeilmnorstuåéσς中文かが가😀Aß"  # noqa: RUF001
WORDS = ("the", "cat", "cafe", "naive", "##s", "##ing", "un", "##aff", "##able", "istanbul", "Cat", "Café")
VOCAB = [
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    *dict.fromkeys([*LETTERS, *(f"##{letter}" for letter in LETTERS), *WORDS, *".,!?'\"[]()-$«»…"]),
]
VOCABULARY = Vocabulary(tuple(VOCAB), unk_id=1, cls_id=2, sep_id=3, mask_id=4)

ODD_LINES = (
    "The cat's café, naïve!",
    "Ünaffable CATS İstanbul STRASSE ẞ",
    "e\u0301a\u0308 ﬁ Å \u212b",  # accents by themselves, a ligature, the sign for Ångström
    "中文a中 かが 가각 豈",
    "😀😀 a😀 👍🏽 👩\u200d👩",
    "ΟΔΟΣ ΣΑΣ. Σ'Σ ΑΣ:Α",  # final sigmas  # noqa: RUF001
    "a\u200bb c\u00add \u200e\ufeff e\u2060f",  # zero-width and format characters inside words
    "a\x00b\x07c\ufffdd\x85e\x1cf\x7f",
    "a\tb\rc\x0bd\x0ce\u00a0f\u2003g\u2028h\u2029i\u3000j",  # every kind of whitespace
    "\ue000 \U000e0001x \U0010fffd \u0378",  # private use, tags, unassigned
    "$5 ^x^ `a` ~ a|b <c> = «d» “e” a_b … ¿f? ⁂",
    "[MASK] [CLS] [SEP] [UNK] ##s",  # text cannot hold special tokens
    "a" * 200,
    "a" * 201,
    "é" * 200 + " " + "é" * 201,
    "中" * 201,
    "a.b" * 100,
    " \u00a0 the cat sat  on the mat \u3000",
    "cat",
    "the the the the the the the the the the the the the the the the the the the the the the",
)
EMPTY_LINES = ("\u200b", "\x01\ufffd", "\u0301", "\ufeff\u200d")  # characters, but no tokens
BLANK_LINES = ("", " ", "\t \u00a0", "\u2028\x0c", "\r", "\x1c\x85")


def make(folder: Path, text: str, vocabulary: Vocabulary, options: naive.Settings) -> list[tuple[Record, RecordShape]]:
    """Return the records that the package writes to a file."""
    (folder / "text").write_text(text, encoding="utf-8", newline="")
    product = InstanceSettings(**{name: value for name, value in vars(options).items() if name != "do_lower_case"})
    task = ShardTask(folder / "text", folder / "out")
    write_shard(task, vocabulary, product, Casing(options.do_lower_case, options.do_lower_case))
    return [decode_record(payload) for _, payload in iterate_payloads(folder / "out")]


def assert_same(ours: list[tuple[Record, RecordShape]], expected: list[naive.NaiveRecord]) -> None:
    assert len(ours) == len(expected) > 0
    for (record, _), other in zip(ours, expected, strict=True):
        assert record.input_ids.tolist() == other.input_ids
        assert record.token_type_ids.tolist() == other.segment_ids
        assert record.masked_positions.tolist() == other.masked_lm_positions
        assert record.masked_ids.tolist() == other.masked_lm_ids
        assert record.next_sentence_label == other.next_sentence_label


@needs_sample
@pytest.mark.parametrize("text", ["part-00000-of-00002", "part-00001-of-00002"])
def test_the_naive_records_equal_those_of_mlcommons(text: str) -> None:
    """Both lengths in one test: the naive implementation reads the text slowly."""
    words = (DATA / "vocab.txt").read_text(encoding="utf-8").splitlines()
    content = (SAMPLE / "text" / text).read_text(encoding="utf-8")
    for tokens, predictions, suffix in ((128, 20, "_128"), (512, 76, "")):
        shard = SAMPLE / f"seq_{tokens}" / f"{text}{suffix}"
        theirs = [decode_record(payload) for _, payload in iterate_payloads(shard)]
        assert_same(theirs, naive.make_records(content, words, naive.Settings(tokens, predictions, 1, 12345)))


def paragraphs(lines: list[str]) -> str:
    """Return lines as documents of three lines."""
    return "".join(f"{line}\n" + ("\n" if number % 3 == 2 else "") for number, line in enumerate(lines))


@pytest.mark.parametrize("do_lower_case", [True, False])
@pytest.mark.parametrize(
    ("tokens", "predictions", "dupes", "seed", "short", "masked"),
    [
        (128, 20, 10, 12345, 0.1, 0.15),
        (512, 76, 3, 12345, 0.1, 0.15),
        (64, 10, 5, 0, 0.0, 0.15),
        (33, 7, 2, 2**53, 1.0, 0.4),
        (6, 3, 2, 1, 0.5, 1.0),
        (5, 1, 1, 7, 0.1, 0.01),
    ],
)
def test_odd_text(
    tmp_path: Path, tokens: int, predictions: int, dupes: int, seed: int, short: float, masked: float,
    do_lower_case: bool,
) -> None:  # fmt: skip
    options = naive.Settings(tokens, predictions, dupes, seed, short, masked, do_lower_case)
    text = paragraphs([*ODD_LINES, *EMPTY_LINES, *ODD_LINES[::-1]])
    assert_same(make(tmp_path, text, VOCABULARY, options), naive.make_records(text, VOCAB, options))


@pytest.mark.parametrize(
    "text",
    [
        "the cat",  # one sentence, no final newline
        "the cat\nsat\ncats\nun\n",  # one document
        "a\n\nb\n\nc\n\nd\n",  # documents of one sentence
        "\n\n\na b\n\n\n\n \t\n\nc d\ne",  # several blank lines, at both ends and in the middle
        "a b\n\u200b\nc d\n\n\u200b\n\ne f\n",  # lines and a document without tokens
        "a b\r\nc\r\n\r\nd e\r\n",
        "a b\x0b\x0cc\x1cd\x85e\u2028f\n\ng\n",  # line ends to Python, not to the reference
        ("a b c d e f g h i j\n" * 20 + "\n") * 3,
        "a" * 201 + "\n\n" + "a" * 200,
    ],
)
def test_odd_documents(tmp_path: Path, text: str) -> None:
    for tokens, seed in ((16, 1), (16, 2), (32, 12345), (128, 12345)):
        options = naive.Settings(tokens, 5, 3, seed)
        assert_same(make(tmp_path, text, VOCABULARY, options), naive.make_records(text, VOCAB, options))


lines = st.one_of(
    st.sampled_from(ODD_LINES),
    st.sampled_from(EMPTY_LINES + BLANK_LINES),
    st.sampled_from(("", "", "")),
    st.text(st.sampled_from("abcdé中Σ😀 .,'\u200b\u00a0\u0301İA$"), max_size=40),
    st.text(max_size=12).map(lambda text: text.replace("\n", " ").encode("utf-8", "ignore").decode()),
)


@st.composite
def all_settings(draw: st.DrawFn) -> naive.Settings:
    tokens = draw(st.integers(5, 140))
    return naive.Settings(
        tokens,
        draw(st.integers(1, min(20, tokens - 3))),
        draw(st.integers(1, 4)),
        draw(st.integers(0, 1 << 40)),
        draw(st.sampled_from((0.0, 0.1, 0.5, 1.0))),
        draw(st.sampled_from((0.01, 0.15, 0.5, 1.0))),
        draw(st.booleans()),
    )


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text_lines=st.lists(lines, max_size=25), options=all_settings(), ending=st.sampled_from(("", "\n", "\n\n")))
def test_any_text_and_settings(tmp_path: Path, text_lines: list[str], options: naive.Settings, ending: str) -> None:
    text = "\n".join(text_lines) + ending
    expected = naive.make_records(text, VOCAB, options)
    if expected:
        assert_same(make(tmp_path, text, VOCABULARY, options), expected)
    else:
        with pytest.raises(InputError, match="found no sentences"):
            make(tmp_path, text, VOCABULARY, options)


@needs_sample
def test_odd_lines_have_the_same_tokens_with_the_vocabulary_of_mlcommons() -> None:
    words = (DATA / "vocab.txt").read_text(encoding="utf-8").splitlines()
    numbers = {word: number for number, word in enumerate(words)}
    all_lines = [*ODD_LINES, *EMPTY_LINES, *BLANK_LINES]
    for do_lower_case in (True, False):
        product = WordPieceTokenizer(read_vocab(DATA / "vocab.txt"), do_lower_case=do_lower_case)
        for line, ids in zip(all_lines, product.encode(all_lines), strict=True):
            assert ids == [numbers[piece] for piece in naive.tokenize(line, numbers, do_lower_case)], line


@pytest.mark.parametrize("do_lower_case", [True, False])
def test_words_equal_those_of_transformers(do_lower_case: bool) -> None:
    """Without what differs from the reference: unassigned and private characters, and accents it composes first."""
    legacy = pytest.importorskip("transformers.models.bert.tokenization_bert_legacy")
    theirs = legacy.BasicTokenizer(do_lower_case=do_lower_case)
    compared = 0
    for line in (*ODD_LINES, *EMPTY_LINES, *BLANK_LINES):
        kept = "".join(character for character in line if unicodedata.category(character) not in ("Cn", "Co"))
        composed = unicodedata.normalize("NFC", kept)
        assert naive.basic_tokenize(composed, do_lower_case) == theirs.tokenize(composed), line
        compared += composed == line
    assert compared > 20
