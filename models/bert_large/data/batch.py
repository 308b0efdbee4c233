"""Ragged batches: the real tokens of several sequences laid end to end, without padding.

The model sees one sequence of T tokens. `cu_seqlens` marks for attention where sequences begin, and masked tokens are a
flat list of indices into the T tokens. No operation computes on padding, so a step costs what its real tokens cost.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from bert_large.data.record import Record

_PART_SHIFT = 48
"""The parts of a sample are numbered in the upper bits of its number, so that each has dropout masks of its own."""


class RaggedRows(Protocol):
    """Where the T rows of a ragged matrix belong: what the layers of an encoder know of a `RaggedBatch`."""

    @property
    def cu_seqlens(self) -> torch.Tensor:
        """[B + 1] int32: sequence b consists of rows cu_seqlens[b] up to, not including, cu_seqlens[b + 1]."""

    @property
    def sequence_ids(self) -> torch.Tensor:
        """[T] int64: index of each row's sequence."""

    @property
    def position_ids(self) -> torch.Tensor:
        """[T] int64: position of each row in its sequence."""

    @property
    def samples(self) -> torch.Tensor:
        """[B] int64: number of each sequence, on which dropout depends."""

    @property
    def keys(self) -> torch.Tensor | None:
        """[B] int32: the first keys[b] rows of sequence b are attended to; None if all are."""


@dataclass(frozen=True)
class RaggedBatch:
    """B sequences with T tokens in total, M of them masked; all tensors are int64 except `cu_seqlens`.

    A sequence is a record, or one part of a record of several parts.
    """

    input_ids: torch.Tensor
    """[T] token ids."""
    token_type_ids: torch.Tensor
    """[T] segment of each token, 0 or 1."""
    position_ids: torch.Tensor
    """[T] position of each token in its sequence."""
    sequence_ids: torch.Tensor
    """[T] index of the sequence, 0 to B - 1, that each token belongs to."""
    cu_seqlens: torch.Tensor
    """[B + 1] int32: sequence b consists of tokens cu_seqlens[b] up to, not including, cu_seqlens[b + 1]."""
    samples: torch.Tensor
    """[B] number of each sequence in the endless sequence of samples of a run; dropout depends on it. The number of the
    part, from 0, is added in the bits from 48 on."""
    masked_positions: torch.Tensor
    """[M] indices into the T tokens."""
    masked_labels: torch.Tensor
    """[M] the original token ids at `masked_positions`."""
    next_sentence_labels: torch.Tensor
    """[B] 1 if segment B is random, 0 if it follows segment A, -1 (`NO_PAIR`) if there is none."""
    max_length: int
    """Number of tokens of the longest sequence."""

    @property
    def sequences(self) -> int:
        """B."""
        return len(self.samples)

    @property
    def records(self) -> int:
        """Number of records, which is B unless records have several parts."""
        return int((self.samples >> _PART_SHIFT == 0).sum())

    @property
    def tokens(self) -> int:
        """T."""
        return len(self.input_ids)

    @property
    def keys(self) -> None:
        """None: all tokens are attended to."""
        return None

    @property
    def masked_tokens(self) -> int:
        """M."""
        return len(self.masked_labels)


def make_batch(records: Sequence[Record], samples: Sequence[int]) -> RaggedBatch:
    """Lay records end to end; `samples` are the numbers of the samples that they are in the run."""
    ends = np.cumsum([len(record.input_ids) for record in records])
    firsts = ends - [len(record.input_ids) for record in records]
    parts = [np.array(record.part_starts) + first for record, first in zip(records, firsts, strict=True)]
    starts = np.concatenate([*parts, ends[-1:]])
    lengths = np.diff(starts)
    sequence_ids = np.repeat(np.arange(len(lengths)), lengths)
    masked = [record.masked_positions + first for record, first in zip(records, firsts, strict=True)]
    samples = [
        sample | part << _PART_SHIFT for sample, of in zip(samples, parts, strict=True) for part in range(len(of))
    ]
    return RaggedBatch(
        input_ids=_tensor(np.concatenate([record.input_ids for record in records])),
        token_type_ids=_tensor(np.concatenate([record.token_type_ids for record in records])),
        position_ids=_tensor(np.arange(starts[-1]) - starts[sequence_ids]),
        sequence_ids=_tensor(sequence_ids),
        cu_seqlens=torch.from_numpy(starts.astype(np.int32)),
        samples=torch.tensor(samples, dtype=torch.int64),
        masked_positions=_tensor(np.concatenate(masked)),
        masked_labels=_tensor(np.concatenate([record.masked_ids for record in records])),
        next_sentence_labels=torch.tensor(
            [record.next_sentence_label for record in records for _ in record.part_starts], dtype=torch.int64
        ),
        max_length=int(lengths.max()),
    )


class Selection(NamedTuple):
    """Some tokens of a batch."""

    rows: torch.Tensor
    """[R] int64: their indices in the batch, ascending."""
    batch: RaggedBatch
    """Only these tokens, each with its original position in its sequence."""


def select_tokens(batch: RaggedBatch, rows: torch.Tensor) -> Selection:
    """Select the tokens `rows`, which must include the first token of every sequence and all masked tokens."""
    sequence_ids = batch.sequence_ids[rows]
    lengths = torch.bincount(sequence_ids, minlength=batch.sequences)
    selected = dataclasses.replace(
        batch,
        input_ids=batch.input_ids[rows],
        token_type_ids=batch.token_type_ids[rows],
        position_ids=batch.position_ids[rows],
        sequence_ids=sequence_ids,
        cu_seqlens=torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]).int(),
        masked_positions=torch.searchsorted(rows, batch.masked_positions),
        max_length=int(lengths.max()),
    )
    return Selection(rows, selected)


def to_numpy(batch: RaggedBatch) -> dict[str, Any]:
    """Return the fields as arrays, which go through a pipe; tensors would be passed as shared-memory files."""
    fields = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    return {name: value if isinstance(value, int) else value.numpy() for name, value in fields.items()}


def from_numpy(fields: dict[str, Any]) -> RaggedBatch:
    """Return the batch that `to_numpy` converted; its tensors share the memory of the arrays."""
    values: dict[str, Any] = {
        name: value if isinstance(value, int) else torch.from_numpy(value) for name, value in fields.items()
    }
    return RaggedBatch(**values)


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array.astype(np.int64))
