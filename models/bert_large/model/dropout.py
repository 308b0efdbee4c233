"""Dropout from a counter-based hash: which element is kept is a function of its place, not of a generator's state.

An element's place is (seed, step, layer, site, sample of the run, row in the sample, column). So the mask does not
depend on how a batch is cut into micro-batches or dealt to ranks, and a kernel can make it again in the backward pass.
The 32-bit mixer is `lowbias32` of Chris Wellons' hash-prospector (2018); all arithmetic wraps modulo 2^32.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import torch

from bert_large.mixing import splitmix64

_GOLDEN = 0x9E3779B9
_HEAD_SHIFT = 16  # an attention row is (head, query position): positions stay below 2^16


class Site(IntEnum):
    """The places in a layer where dropout is applied."""

    EMBEDDING = 0
    ATTENTION_PROBABILITIES = 1
    ATTENTION_OUTPUT = 2
    FEED_FORWARD_OUTPUT = 3


@dataclass(frozen=True)
class DropoutSite:
    """Dropout at one site of one layer in one step: the probability to drop, and the 32-bit key of the mask."""

    probability: float
    key: int


@dataclass(frozen=True)
class StepDropout:
    """Dropout of one optimizer step of a run."""

    seed: int
    step: int


def site_dropout(dropout: StepDropout | None, probability: float, layer: int, site: Site) -> DropoutSite | None:
    """Return the dropout of a site, or None where nothing is dropped."""
    if dropout is None or probability == 0.0:
        return None
    key = splitmix64(dropout.seed)
    for part in (dropout.step, layer, int(site)):
        key = splitmix64(key ^ part)
    return DropoutSite(probability, key & 0xFFFFFFFF)


def _signed(value: int) -> int:
    """Return the int32 with the same bits as a 32-bit value."""
    return value - (1 << 32) if value >= 1 << 31 else value


def _shift_right(values: torch.Tensor, bits: int) -> torch.Tensor:
    """Return a logical shift of int32 values (PyTorch's keeps the sign)."""
    return (values >> bits).bitwise_and_((1 << (32 - bits)) - 1)


def hash32_(values: torch.Tensor) -> torch.Tensor:
    """Mix int32 `values` (any shape) in place by `lowbias32` and return them."""
    values.bitwise_xor_(_shift_right(values, 16)).mul_(_signed(0x7FEB352D))
    values.bitwise_xor_(_shift_right(values, 15)).mul_(_signed(0x846CA68B))
    return values.bitwise_xor_(_shift_right(values, 16))


def row_keys(key: int, samples: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Return the int32 key of each row; `samples` int64 and `rows` integer tensors broadcast to the result's shape."""
    low = (samples & 0xFFFFFFFF).to(torch.int32)
    high = (samples >> 32).to(torch.int32)
    sample_keys = hash32_(hash32_(low ^ _signed(key)) ^ high)
    return hash32_(sample_keys + rows.to(torch.int32))


def keep_mask(keys: torch.Tensor, columns: int, probability: float) -> torch.Tensor:
    """Return the bool mask [*keys.shape, columns] of kept elements for int32 row `keys`."""
    counters = torch.arange(columns, dtype=torch.int32) * _signed(_GOLDEN)
    bits = hash32_(keys.unsqueeze(-1) + counters)
    return bits >= round(probability * (1 << 32)) - (1 << 31)


def token_keep_mask(site: DropoutSite, samples: torch.Tensor, positions: torch.Tensor, columns: int) -> torch.Tensor:
    """Return the mask [T, columns] for token rows; `samples` and `positions` [T] say whose token stands in each."""
    return keep_mask(row_keys(site.key, samples, positions), columns, site.probability)


def attention_keep_mask(site: DropoutSite, samples: torch.Tensor, heads: int, length: int) -> torch.Tensor:
    """Return the mask [B, heads, length, length] for attention probabilities of `samples` [B]."""
    rows = (torch.arange(heads) << _HEAD_SHIFT).unsqueeze(1) + torch.arange(length)
    return keep_mask(row_keys(site.key, samples.view(-1, 1, 1), rows), length, site.probability)
