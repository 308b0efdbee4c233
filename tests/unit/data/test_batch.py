"""Ragged batches: real tokens end to end, and flat indices into them."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from bert_large.data.batch import from_numpy, make_batch, select_tokens, to_numpy
from bert_large.data.record import Record


def record(tokens: list[int], segments: list[int], positions: list[int], labels: list[int], random_next: int) -> Record:
    return Record(
        input_ids=np.array(tokens, np.int32),
        token_type_ids=np.array(segments, np.uint8),
        masked_positions=np.array(positions, np.int32),
        masked_ids=np.array(labels, np.int32),
        next_sentence_label=random_next,
    )


BATCH = make_batch(
    [
        record([2, 11, 3], [0, 0, 1], [1], [21], 0),
        record([2], [0], [], [], 1),
        record([2, 12, 13, 3], [0, 1, 1, 1], [1, 2], [22, 23], 1),
    ],
    samples=[7, 1 << 40, 3],
)


def test_layout() -> None:
    """Tokens of the sequences follow one another; positions restart; masked positions index all tokens."""
    assert BATCH.input_ids.tolist() == [2, 11, 3, 2, 2, 12, 13, 3]
    assert BATCH.token_type_ids.tolist() == [0, 0, 1, 0, 0, 1, 1, 1]
    assert BATCH.position_ids.tolist() == [0, 1, 2, 0, 0, 1, 2, 3]
    assert BATCH.sequence_ids.tolist() == [0, 0, 0, 1, 2, 2, 2, 2]
    assert BATCH.cu_seqlens.tolist() == [0, 3, 4, 8]
    assert BATCH.samples.tolist() == [7, 1 << 40, 3]
    assert BATCH.masked_positions.tolist() == [1, 5, 6]
    assert BATCH.masked_labels.tolist() == [21, 22, 23]
    assert BATCH.next_sentence_labels.tolist() == [0, 1, 1]
    assert (BATCH.max_length, BATCH.sequences, BATCH.tokens, BATCH.masked_tokens) == (4, 3, 8, 3)


def test_types() -> None:
    """int64, as PyTorch needs for indexing, except `cu_seqlens`, which variable-length attention needs as int32."""
    tensors = {name: value for name, value in vars(BATCH).items() if isinstance(value, torch.Tensor)}
    assert tensors.pop("cu_seqlens").dtype == torch.int32
    assert {value.dtype for value in tensors.values()} == {torch.int64} and len(tensors) == 8


def test_a_batch_is_restored_from_arrays() -> None:
    again = from_numpy(to_numpy(BATCH))
    for field in dataclasses.fields(BATCH):
        ours, theirs = getattr(again, field.name), getattr(BATCH, field.name)
        if isinstance(theirs, torch.Tensor):
            assert ours.dtype == theirs.dtype and torch.equal(ours, theirs), field.name
        else:
            assert ours == theirs


def test_some_of_the_tokens() -> None:
    """They are laid end to end with their original positions, and masked positions refer to the same tokens."""
    read = select_tokens(BATCH, torch.tensor([0, 1, 3, 4, 5, 6])).batch
    assert read.input_ids.tolist() == [2, 11, 2, 2, 12, 13]
    assert read.token_type_ids.tolist() == [0, 0, 0, 0, 1, 1]
    assert read.position_ids.tolist() == [0, 1, 0, 0, 1, 2]
    assert read.sequence_ids.tolist() == [0, 0, 1, 2, 2, 2]
    assert read.cu_seqlens.tolist() == [0, 2, 3, 6] and read.cu_seqlens.dtype == torch.int32
    assert read.masked_positions.tolist() == [1, 4, 5]
    assert (read.max_length, read.sequences, read.tokens, read.masked_tokens) == (3, 3, 6, 3)
    assert read.samples is BATCH.samples and read.masked_labels is BATCH.masked_labels
