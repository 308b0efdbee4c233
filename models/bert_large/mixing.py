"""The integer mixer that keys everything random: sample order and dropout."""

_MASK_64 = (1 << 64) - 1


def splitmix64(value: int) -> int:
    """Return the SplitMix64 output for a state (Steele, Lea, Flood 2014): a well-mixed 64-bit function of it."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK_64
    value = ((value ^ value >> 30) * 0xBF58476D1CE4E5B9) & _MASK_64
    value = ((value ^ value >> 27) * 0x94D049BB133111EB) & _MASK_64
    return value ^ value >> 31
