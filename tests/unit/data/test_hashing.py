"""The integer hash behind every random choice."""

from __future__ import annotations

import numpy as np
from bert_large.data.hashing import random_numbers, splitmix64


def test_known_values() -> None:
    """The first outputs of SplitMix64 for the seeds 0 and 1234567, as published."""
    assert splitmix64(0) == 0xE220A8397B1DCDAF
    assert splitmix64(1234567) == 6457827717110365317


def test_wraps_at_64_bits() -> None:
    assert splitmix64(2**64 + 5) == splitmix64(5)
    assert 0 <= splitmix64(2**64 - 1) < 2**64


def test_random_numbers_are_the_stream_of_each_key() -> None:
    """Any output can be computed directly, because the state grows by the same amount for each."""
    keys = np.array([0, 1234567, 2**64 - 1], dtype=np.uint64)
    for counter in (0, 1, 1000):
        states = [int(key) + counter * 0x9E3779B97F4A7C15 for key in keys]
        assert random_numbers(keys, np.full(3, counter)).tolist() == [splitmix64(state) for state in states]
