"""From a padded batch to the rows that are computed, and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bert_large.hugging_face.fallback import UnsupportedError


@dataclass(frozen=True)
class PaddedRows:
    """The T rows of a padded batch [B, S] that are computed, sequence by sequence; a `RaggedRows`."""

    places: Tensor | None
    """[T] int64: their indices among the B * S rows of the batch; None if they are all of them, in order."""
    cu_seqlens: Tensor
    sequence_ids: Tensor
    position_ids: Tensor
    samples: Tensor
    keys: Tensor | None

    def gather(self, padded: Tensor) -> Tensor:
        """Return the rows [T, columns] of [B, S, columns]."""
        rows = padded.reshape(-1, padded.shape[-1])
        return rows if self.places is None else rows.index_select(0, self.places)

    def scatter(self, rows: Tensor, shape: torch.Size) -> Tensor:
        """Return [T, columns] as [B, S, columns]; rows that were not computed are zero."""
        if self.places is None:
            return rows.view(shape)
        return rows.new_zeros(shape[0] * shape[1], shape[2]).index_copy(0, self.places, rows).view(shape)


def find_rows(attention_mask: Any, sequences: int, length: int, *, all_rows: bool = False) -> PaddedRows:
    """Return the rows to compute, given a prepared attention mask (see `real_tokens`).

    They are the tokens that others attend to and, because poolers and classification heads read it, the first token of
    every sequence, which is padding in a batch padded on the left. Hugging Face's models compute outputs for padding,
    too: from attention to the real tokens. `all_rows` asks for all of them.
    """
    real = real_tokens(attention_mask, sequences, length)
    if real is None or bool(real.all()):
        return _rows(None, torch.full((sequences,), length), None)
    keys = real.sum(dim=1)
    if not bool(keys.all()):
        raise UnsupportedError("a sequence of the batch has no token that its attention mask keeps")
    wanted = torch.ones_like(real) if all_rows else real.clone()
    wanted[:, 0] = True
    places = wanted.flatten().nonzero().flatten()
    lengths = wanted.sum(dim=1)
    if bool((lengths == keys).all()):
        return _rows(places, lengths, None)
    # Real tokens first in every sequence, because the kernels attend to the first rows only.
    order = 2 * places.div(length, rounding_mode="floor") + ~real.flatten()[places]
    return _rows(places[order.argsort(stable=True)], lengths, keys.int())


def _rows(places: Tensor | None, lengths: Tensor, keys: Tensor | None) -> PaddedRows:
    """Return rows of sequences with these lengths [B]."""
    sequence_ids = torch.arange(len(lengths)).repeat_interleave(lengths)
    starts = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    return PaddedRows(
        places=places,
        cu_seqlens=starts.int(),
        sequence_ids=sequence_ids,
        position_ids=torch.arange(len(sequence_ids)) - starts[sequence_ids],
        samples=torch.arange(len(lengths)),
        keys=keys,
    )


def real_tokens(mask: Any, sequences: int, length: int) -> Tensor | None:
    """Return bool [B, S], True for the tokens that all others attend to, from a mask as `transformers` prepares it.

    Such a mask is None (no padding), or [B or 1, 1, S or 1, S] with True (0) where attention is allowed, and False (the
    type's minimum or -inf) elsewhere, in bool (floating point). Raises `UnsupportedError` for other masks, among them
    those that differ from query to query, such as a causal one.
    """
    if mask is None:
        return None
    if not isinstance(mask, Tensor) or mask.dim() != 4 or mask.shape[1] != 1 or mask.shape[-1] != length:
        raise UnsupportedError("its attention mask is not one row per sequence")
    if mask.shape[0] not in (1, sequences) or mask.shape[2] not in (1, length):
        raise UnsupportedError("its attention mask does not have the shape of the batch")
    row = mask[:, 0, 0]
    if mask.shape[2] > 1 and mask.stride(2) != 0 and not bool((mask == mask[:, :, :1]).all()):
        raise UnsupportedError("its attention mask differs from token to token")
    if row.dtype == torch.bool:
        real = row
    elif row.is_floating_point():
        real = row == 0
        if bool((~real & (row > torch.finfo(row.dtype).min)).any()):
            raise UnsupportedError("its attention mask has values other than 0 and the smallest number")
    else:
        raise UnsupportedError(f"its attention mask is of type {row.dtype}")
    return real.expand(sequences, length)
