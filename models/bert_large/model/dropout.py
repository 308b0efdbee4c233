"""Dropout by a counter-based hash: whether an element is kept is a function of its place, not of a generator's state.

An element's place is (seed, step, layer, site, sample, row in the sample, column). So the mask does not depend on how a
batch is split into micro-batches or distributed over ranks, and a kernel can compute it again in the backward pass
instead of storing it. The hash is a chain:

    key         = splitmix64 over seed, step, layer and site, lower 32 bits     (one per site and step)
    sample key  = hash32(hash32(lower 32 bits of sample ^ key) ^ upper 32 bits of sample)
    row key     = hash32(sample key + row)
    element     = hash32(row key + column * 0x9E3779B9), kept if at least probability * 2^32

`hash32` is `lowbias32` of Chris Wellons' hash-prospector (2018), and 0x9E3779B9 is 2^32 divided by the golden ratio,
which spreads consecutive columns. All arithmetic wraps modulo 2^32. `engines/native/csrc/dropout.h` is the same in C++.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import torch

from bert_large.data.hashing import splitmix64

_GOLDEN = 0x9E3779B9
_BLOCK_ELEMENTS = 1 << 16  # hashed at once: they stay in a core's cache over the passes of `hash32_`
_HEAD_SHIFT = 16  # a row of attention probabilities is (head, query position); positions are below 2^16


class Site(IntEnum):
    """The places in a layer where dropout is applied."""

    EMBEDDING = 0
    ATTENTION_PROBABILITIES = 1
    ATTENTION_OUTPUT = 2
    FEED_FORWARD_OUTPUT = 3


@dataclass(frozen=True)
class DropoutSite:
    """Dropout at one site of one layer in one step: the probability of dropping an element, and the 32-bit key."""

    probability: float
    key: int


@dataclass(frozen=True)
class StepDropout:
    """What keys the dropout of one optimizer step: the run's seed and the number of the step."""

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


def hash32_(values: torch.Tensor, scratch: torch.Tensor | None = None) -> torch.Tensor:
    """Apply `lowbias32` to int32 `values` in place and return them; `scratch` has their shape."""
    scratch = torch.empty_like(values) if scratch is None else scratch
    for shift, multiplier in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1)):
        torch.bitwise_right_shift(values, shift, out=scratch)
        scratch.bitwise_and_((1 << (32 - shift)) - 1)  # PyTorch shifts copies of the sign bit in
        values.bitwise_xor_(scratch)
        if multiplier != 1:
            values.mul_(_signed(multiplier))
    return values


def row_keys(key: int, samples: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Return the int32 key of each row; `samples` int64 and `rows` integer tensors broadcast to the result's shape."""
    low = (samples & 0xFFFFFFFF).to(torch.int32)
    high = (samples >> 32).to(torch.int32)
    sample_keys = hash32_(hash32_(low ^ _signed(key)) ^ high)
    return hash32_(sample_keys + rows.to(torch.int32))


def keep_mask(keys: torch.Tensor, columns: int, probability: float) -> torch.Tensor:
    """Return the bool mask [*keys.shape, columns] of kept elements for int32 row `keys`."""
    counters = torch.arange(columns, dtype=torch.int32) * _signed(_GOLDEN)
    # For hashes compared as signed numbers; the limit is for probabilities that round up to 1.
    threshold = min(round(probability * (1 << 32)), (1 << 32) - 1) - (1 << 31)
    flat_keys = keys.reshape(-1, 1)
    keep = torch.empty(flat_keys.shape[0], columns, dtype=torch.bool)
    rows = max(1, _BLOCK_ELEMENTS // columns)
    bits, scratch = torch.empty(2, min(rows, flat_keys.shape[0]), columns, dtype=torch.int32)
    for start in range(0, flat_keys.shape[0], rows):
        block = flat_keys[start : start + rows]
        block_bits = torch.add(block, counters, out=bits[: len(block)])
        torch.ge(hash32_(block_bits, scratch[: len(block)]), threshold, out=keep[start : start + rows])
    return keep.view(*keys.shape, columns)


def token_keep_mask(site: DropoutSite, samples: torch.Tensor, positions: torch.Tensor, columns: int) -> torch.Tensor:
    """Return the mask [T, columns] for the rows of T tokens, given by sample and position in the sample [T]."""
    return keep_mask(row_keys(site.key, samples, positions), columns, site.probability)


def attention_keep_mask(site: DropoutSite, samples: torch.Tensor, heads: int, length: int) -> torch.Tensor:
    """Return the mask [B, heads, length, length] for attention probabilities of `samples` [B]."""
    rows = (torch.arange(heads) << _HEAD_SHIFT).unsqueeze(1) + torch.arange(length)
    return keep_mask(row_keys(site.key, samples.view(-1, 1, 1), rows), length, site.probability)
