"""Which record comes when: a pure function of (seed, epoch, position), and how a global batch is dealt to ranks.

The order of an epoch is not a shuffled list but a keyed permutation: a function that computes the record at a position
from the position and a key. It has no state. Any process computes any part of the order alone, a run resumes at any
sample with one integer in its checkpoint, and nothing depends on the number of ranks, workers or restarts. A list of
BERT's roughly 150 million records would take 1.2 GB in every process, and shuffling it several seconds in every epoch.

A permutation of all records needs their number, which is known when all shards have been indexed. A large data set is
therefore divided into windows of consecutive records (`data.windows`). In the first epoch the windows come one after
another, each in a permutation of its own, so that the first steps only need the first window. In later epochs every
record is known, and one permutation shuffles all of them. The sample at a position is still a function of (seed, epoch,
position) and of the files' names and sizes, which define the windows. Data of one window have one permutation in every
epoch.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from bert_large.data.hashing import mix64, splitmix64

_ROUNDS = 6
_EPOCH_BITS = 32
"""Bits of a permutation's key for the epoch; the bits above are for the window."""


def permute(indices: NDArray[np.int64], size: int, key: int) -> NDArray[np.int64]:
    """Return the images of `indices` (int64, any shape) under a pseudorandom permutation of `range(size)`.

    A Feistel network permutes the integers of 2 * `half_bits` bits, the smallest even number of bits that holds `size`.
    Each round replaces (left, right) by (right, left ^ hash(right)). The hash need not be invertible: `left` can be
    recovered from the result because `right` is still in it, so every round, and the network, is a permutation.

    Its domain is up to four times larger than `size`. An index whose image is not below `size` is permuted again until
    it is (cycle walking; Black and Rogaway, "Ciphers with arbitrary finite domains", 2002). The walk follows the cycle
    of the index, which returns to the index itself, so it ends, and no two indices end at the same place.
    """
    half_bits = max(1, ((size - 1).bit_length() + 1) // 2)
    half_mask = np.uint64((1 << half_bits) - 1)
    shift = np.uint64(half_bits)
    round_keys = [np.uint64(splitmix64(key + round_)) for round_ in range(_ROUNDS)]
    values = np.array(indices, dtype=np.uint64)
    outside = np.ones(values.shape, dtype=bool)
    while outside.any():
        walking = values[outside]
        left, right = walking >> shift, walking & half_mask
        for round_key in round_keys:
            left, right = right, left ^ (mix64(right ^ round_key) & half_mask)
        values[outside] = left << shift | right
        outside = values >= np.uint64(size)
    return values.astype(np.int64)


class Windows(Protocol):
    """Consecutive records in windows, which are counted only when their sizes are needed."""

    @property
    def window_count(self) -> int:
        """Number of windows."""

    def window_end(self, window: int) -> int:
        """Return the number of records in all windows up to and including this one."""


class _Block(NamedTuple):
    """Samples that are one permutation of consecutive records."""

    epoch: int
    first_sample: int
    first_record: int
    size: int
    window: int


@dataclass(frozen=True)
class SampleOrder:
    """The endless sequence of samples: epoch after epoch, each one a permutation of all records of all files."""

    records: int | Windows
    """The number of records, or the windows of a data set whose number of records may not be known yet."""
    seed: int
    shuffle: bool = True

    def record_numbers(self, start: int, stop: int) -> NDArray[np.int64]:
        """Return the record numbers [stop - start] of samples from `start` up to, but not including, `stop`."""
        numbers = np.empty(stop - start, dtype=np.int64)
        sample = start
        while sample < stop:
            block = self._block_of(sample)
            end = min(stop, block.first_sample + block.size)
            positions = np.arange(sample, end, dtype=np.int64) - block.first_sample
            if self.shuffle:
                key = splitmix64(splitmix64(self.seed) ^ block.epoch ^ block.window << _EPOCH_BITS)
                positions = permute(positions, block.size, key)
            numbers[sample - start : end - start] = block.first_record + positions
            sample = end
        return numbers

    def epoch_of(self, sample: int) -> int:
        """Return the epoch of a sample, from 0."""
        return self._block_of(sample).epoch

    def _block_of(self, sample: int) -> _Block:
        if isinstance(self.records, int):
            total = self.records
        else:
            total = 0
            for window in range(self.records.window_count):
                first, total = total, self.records.window_end(window)
                if sample < total:
                    return _Block(0, first, first, total - first, window)
        epoch = sample // total
        return _Block(epoch, epoch * total, 0, total, 0)


@dataclass(frozen=True)
class BatchSizes:
    """The number of sequences of each step: `full`, after a linear ramp from `start` over the first `ramp_steps`.

    A smaller batch at first makes more updates of the same samples (Smith et al. 2018, arXiv:1711.00489; Brown et al.
    2020, GPT-3, arXiv:2005.14165, 2.3).
    """

    full: int
    start: int | None = None
    """None for no ramp."""
    ramp_steps: int = 0

    def size(self, step: int) -> int:
        """Return the number of sequences of a step, counted from 0."""
        return self.samples(step + 1) - self.samples(step)

    def samples(self, steps: int) -> int:
        """Return the number of sequences of the first `steps` steps."""
        ramp = min(steps, len(self._in_ramp) - 1)
        return int(self._in_ramp[ramp]) + (steps - ramp) * self.full

    @cached_property
    def _in_ramp(self) -> NDArray[np.int64]:
        """[ramp_steps + 1] number of sequences before each step of the ramp, and after it."""
        steps = np.arange(0 if self.start is None else self.ramp_steps)
        first = self.start or 0
        sizes = first + (self.full - first) * steps // max(1, self.ramp_steps)
        return np.concatenate([[0], np.cumsum(sizes)])


def deal_to_ranks(lengths: NDArray[np.int64], world_size: int) -> list[NDArray[np.int64]]:
    """Split a global batch over ranks with nearly equal numbers of tokens.

    All ranks wait for the one with the most tokens, so the sequences, longest first, each go to the rank with the
    fewest tokens so far (Graham 1969). Every rank computes the whole split and takes its part: nothing is exchanged.

    `lengths` [batch] are token counts. Returns the ascending batch positions of each rank. Every position goes to one
    rank, and every rank has at least one if there are as many positions as ranks.
    """
    loads = [(0, 0, rank) for rank in range(world_size)]  # tokens, sequences, rank
    dealt: list[list[int]] = [[] for _ in range(world_size)]
    for position in np.argsort(-lengths, kind="stable").tolist():
        tokens, sequences, rank = heapq.heappop(loads)
        dealt[rank].append(position)
        heapq.heappush(loads, (tokens + int(lengths[position]), sequences + 1, rank))
    return [np.array(sorted(positions), dtype=np.int64) for positions in dealt]


def cut_by_tokens(lengths: NDArray[np.int64], max_tokens: int) -> list[slice]:
    """Cut consecutive sequences into micro-batches of at most `max_tokens` tokens, or one sequence if it has more.

    The micro-batches are filled from the last sequence backward, which leaves the remainder to the first one. Ranks sum
    their gradients during the backward pass of the last micro-batch, so that one should be long.
    """
    cuts, stop, tokens = [], len(lengths), 0
    for position, length in reversed(list(enumerate(lengths.tolist()))):
        if position + 1 < stop and tokens + length > max_tokens:
            cuts.append(slice(position + 1, stop))
            stop, tokens = position + 1, 0
        tokens += length
    if stop > 0:
        cuts.append(slice(0, stop))
    return cuts[::-1]
