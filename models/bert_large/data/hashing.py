"""The integer hash behind everything random: sample order, masks and dropout.

Each random number is a hash of its purpose, such as (seed, sample, token), instead of the next value of a generator.
There is no state to keep, to restore or to share between ranks.
"""

import numpy as np
from numpy.typing import NDArray

_MASK_64 = (1 << 64) - 1
_INCREMENT = 0x9E3779B97F4A7C15


def splitmix64(value: int) -> int:
    """Return the SplitMix64 output for a state (Steele, Lea, Flood 2014), a 64-bit hash of it."""
    value = (value + _INCREMENT) & _MASK_64
    value = ((value ^ value >> 30) * 0xBF58476D1CE4E5B9) & _MASK_64
    value = ((value ^ value >> 27) * 0x94D049BB133111EB) & _MASK_64
    return value ^ value >> 31


def mix64(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return SplitMix64's finalizer of each value; multiplication wraps around, as the algorithm requires."""
    values = (values ^ values >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ values >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return values ^ values >> np.uint64(31)


def random_numbers(keys: NDArray[np.uint64], counters: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return output number `counters` (from 0) of the SplitMix64 generators whose initial states are `keys`."""
    return mix64(keys + np.uint64(_INCREMENT) * (counters.astype(np.uint64) + np.uint64(1)))
