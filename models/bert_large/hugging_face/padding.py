"""From a padded batch to the rows that are computed, and back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bert_large.hugging_face.fallback import UnsupportedError


@dataclass(frozen=True)
class PaddedRows:
    """The T rows of a padded batch [B, S] that are computed; a `RaggedRows`."""

    places: Tensor | None
    """[T] int64, ascending: their indices among the B * S rows of the batch; None if all are computed."""
    cu_seqlens: Tensor
    sequence_ids: Tensor
    position_ids: Tensor
    samples: Tensor

    def gather(self, padded: Tensor) -> Tensor:
        """Return the rows [T, columns] of [B, S, columns]."""
        rows = padded.reshape(-1, padded.shape[-1])
        return rows if self.places is None else rows.index_select(0, self.places)

    def scatter(self, rows: Tensor, shape: torch.Size) -> Tensor:
        """Return [T, columns] as [B, S, columns]; rows that were not computed are zero."""
        if self.places is None:
            return rows.view(shape)
        return rows.new_zeros(shape[0] * shape[1], shape[2]).index_copy(0, self.places, rows).view(shape)


def find_rows(attention_mask: Tensor | None, sequences: int, length: int) -> PaddedRows:
    """Return the rows of the tokens that a prepared attention mask (see `real_tokens`) lets others attend to."""
    real = real_tokens(attention_mask, sequences, length)
    if real is None or bool(real.all()):
        places = None
        lengths = torch.full((sequences,), length)
        sequence_ids = torch.arange(sequences).repeat_interleave(length)
    else:
        places = real.flatten().nonzero().flatten()
        lengths = real.sum(dim=1)
        sequence_ids = places.div(length, rounding_mode="floor")
    if not bool(lengths.all()):
        raise UnsupportedError("a sequence of the batch has no token that its attention mask keeps")
    starts = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    return PaddedRows(
        places=places,
        cu_seqlens=starts.int(),
        sequence_ids=sequence_ids,
        position_ids=torch.arange(len(sequence_ids)) - starts[sequence_ids],
        samples=torch.arange(sequences),
    )


def real_tokens(mask: Tensor | None, sequences: int, length: int) -> Tensor | None:
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
