"""Sentences of words as the model's input, `[CLS] tokens [SEP]`; a word's tag is predicted at its first token.

As in BERT's own experiments (Devlin et al. 2019, arXiv:1810.04805, section 5.3). A sentence that is too long is split
into chunks of whole words, so that every word gets a tag.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bert_large.config.hugging_face import IGNORED_LABEL
from bert_large.errors import InputError
from bert_large.finetune.conll import Sentence

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_SPECIAL_TOKENS = 2


@dataclass(frozen=True, slots=True)
class Chunk:
    """Words of a sentence that the model reads in one sequence.

    `sentence` is the index of the sentence; `input_ids` int32 [tokens]; `first_pieces` int32 [words] has the index of
    each word's first token; `labels` int32 [tokens] has the words' labels there, and `IGNORED_LABEL` elsewhere.
    """

    sentence: int
    input_ids: NDArray[np.int32]
    first_pieces: NDArray[np.int32]
    labels: NDArray[np.int32]


def make_chunks(
    sentences: Sequence[Sentence],
    tokenizer: PreTrainedTokenizerFast,
    label_ids: Mapping[str, int],
    *,
    max_seq_length: int,
) -> Iterator[Chunk]:
    """Yield the chunks of each sentence, in order, of up to `max_seq_length` tokens; a word that is longer is cut.

    A tag that is not in `label_ids` becomes `IGNORED_LABEL`. A word without tokens becomes [UNK]. Raises `InputError`
    when a chunk has no room for a word.
    """
    room = max_seq_length - _SPECIAL_TOKENS
    if room < 1:
        raise InputError(f"--max-seq-length is {max_seq_length}, expected over {_SPECIAL_TOKENS}")
    for number, sentence in enumerate(sentences):
        ids, first_pieces, labels = _empty(tokenizer)
        for pieces, tag in zip(_pieces(sentence.words, tokenizer), sentence.tags, strict=True):
            fitting = pieces[:room]
            if len(ids) + len(fitting) >= max_seq_length:
                yield _chunk(number, [*ids, tokenizer.sep_token_id], first_pieces, labels)
                ids, first_pieces, labels = _empty(tokenizer)
            first_pieces.append(len(ids))
            labels.append(label_ids.get(tag, IGNORED_LABEL))
            ids += fitting
        yield _chunk(number, [*ids, tokenizer.sep_token_id], first_pieces, labels)


def _empty(tokenizer: PreTrainedTokenizerFast) -> tuple[list[int], list[int], list[int]]:
    """Return ids, first pieces and labels of a chunk without words."""
    return [tokenizer.cls_token_id], [], []


def _pieces(words: Sequence[str], tokenizer: PreTrainedTokenizerFast) -> list[list[int]]:
    """Return the ids of each word's pieces."""
    encoding = tokenizer(list(words), is_split_into_words=True, add_special_tokens=False, verbose=False)
    pieces: list[list[int]] = [[] for _ in words]
    for token, word in zip(encoding["input_ids"], encoding.word_ids(), strict=True):
        pieces[word].append(token)
    return [of_word or [tokenizer.unk_token_id] for of_word in pieces]


def _chunk(sentence: int, ids: list[int], first_pieces: list[int], word_labels: list[int]) -> Chunk:
    positions = np.array(first_pieces, dtype=np.int32)
    labels = np.full(len(ids), IGNORED_LABEL, dtype=np.int32)
    labels[positions] = word_labels
    return Chunk(sentence, np.array(ids, dtype=np.int32), positions, labels)
