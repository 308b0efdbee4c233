"""Chunks of sentences: labels at first pieces, and no word lost."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from bert_large.config.hugging_face import IGNORED_LABEL
from bert_large.errors import InputError
from bert_large.finetune.conll import Sentence
from bert_large.finetune.word_chunks import make_chunks
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.word_tokenizer import word_tokenizer

LABELS = {"O": 0, "B-X": 1}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return word_tokenizer()


def test_first_pieces_have_the_labels(tokenizer: Any) -> None:
    """A word that the tokenizer drops becomes [UNK]; a tag that the model does not have is ignored."""
    sentence = Sentence(("ab", "U.S.", "\u200b", "c"), ("O", "B-X", "O", "B-Y"))
    (chunk,) = make_chunks([sentence], tokenizer, LABELS, max_seq_length=16)
    assert tokenizer.convert_ids_to_tokens(chunk.input_ids) == [
        "[CLS]", "a", "##b", "u", ".", "s", ".", "[UNK]", "c", "[SEP]",
    ]  # fmt: skip
    assert chunk.first_pieces.tolist() == [1, 3, 7, 8]
    no = IGNORED_LABEL
    assert chunk.labels.tolist() == [no, 0, no, 1, no, no, no, 0, no, no]


def test_long_sentences_are_cut_between_words(tokenizer: Any) -> None:
    """Room for 4 tokens; the word of 6 keeps its first 4."""
    sentences = [Sentence(("ab", "cd", "e", "abcdef"), ("O", "B-X", "O", "B-X")), Sentence(("a",), ("O",))]
    chunks = list(make_chunks(sentences, tokenizer, LABELS, max_seq_length=6))
    assert [(chunk.sentence, tokenizer.convert_ids_to_tokens(chunk.input_ids[1:-1])) for chunk in chunks] == [
        (0, ["a", "##b", "c", "##d"]), (0, ["e"]), (0, ["a", "##b", "##c", "##d"]), (1, ["a"]),
    ]  # fmt: skip
    assert [chunk.first_pieces.tolist() for chunk in chunks] == [[1, 3], [1], [1], [1]]


@settings(deadline=None)
@given(st.lists(st.text("ab.\u200b", min_size=1, max_size=12), min_size=1, max_size=12), st.integers(3, 20))
def test_every_word_has_one_label(tokenizer: Any, words: list[str], max_seq_length: int) -> None:
    tags = tuple(("O", "B-X")[number % 2] for number in range(len(words)))
    chunks = list(make_chunks([Sentence(tuple(words), tags)], tokenizer, LABELS, max_seq_length=max_seq_length))
    assert max(len(chunk.input_ids) for chunk in chunks) <= max_seq_length
    labels = np.concatenate([chunk.labels[chunk.first_pieces] for chunk in chunks])
    assert labels.tolist() == [LABELS[tag] for tag in tags]
    assert sum((chunk.labels != IGNORED_LABEL).sum() for chunk in chunks) == len(words)


def test_no_room(tokenizer: Any) -> None:
    with pytest.raises(InputError, match="--max-seq-length is 2"):
        list(make_chunks([], tokenizer, LABELS, max_seq_length=2))
