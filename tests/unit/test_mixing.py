"""The mixer behind every random choice."""

from __future__ import annotations

from bert_large.mixing import splitmix64


def test_known_values() -> None:
    """First outputs of SplitMix64 as published for the seeds 0 and 1234567."""
    assert splitmix64(0) == 0xE220A8397B1DCDAF
    assert splitmix64(1234567) == 6457827717110365317


def test_wraps_at_64_bits() -> None:
    assert splitmix64(2**64 + 5) == splitmix64(5)
    assert 0 <= splitmix64(2**64 - 1) < 2**64
