"""The integer mixer that keys everything random: sample order, masks and dropout."""

import numpy as np
from numpy.typing import NDArray

_MASK_64 = (1 << 64) - 1
_INCREMENT = 0x9E3779B97F4A7C15


def splitmix64(value: int) -> int:
    """Return the SplitMix64 output for a state (Steele, Lea, Flood 2014): a well-mixed 64-bit function of it."""
    value = (value + _INCREMENT) & _MASK_64
    value = ((value ^ value >> 30) * 0xBF58476D1CE4E5B9) & _MASK_64
    value = ((value ^ value >> 27) * 0x94D049BB133111EB) & _MASK_64
    return value ^ value >> 31


def mix64(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return SplitMix64's finaliser of each value; multiplication wraps as intended."""
    values = (values ^ values >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ values >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return values ^ values >> np.uint64(31)


def random_numbers(keys: NDArray[np.uint64], counters: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return, for each key, the number that SplitMix64 started from it gives after `counters` (0 and more) others."""
    return mix64(keys + np.uint64(_INCREMENT) * (counters.astype(np.uint64) + np.uint64(1)))
