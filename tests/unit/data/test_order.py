"""Sample order: a permutation of all records that depends on seed, epoch and position only; dealing and cutting."""

from __future__ import annotations

import numpy as np
import pytest
from bert_large.data.order import BatchSizes, SampleOrder, cut_by_tokens, deal_to_ranks, permute
from hypothesis import given, settings
from hypothesis import strategies as st

# Two epochs of ten records; and where the Wikipedia set's second epoch turns into its third.
GOLDEN_10 = [6, 5, 7, 4, 1, 8, 3, 0, 2, 9, 5, 9, 4, 2, 6, 8, 1, 0, 7, 3]
GOLDEN_WIKIPEDIA = [7060640, 30800833, 50910655, 5141009, 138441564, 149025408]


def epoch_of(order: SampleOrder, epoch: int) -> np.ndarray:
    assert isinstance(order.records, int)
    return order.record_numbers(epoch * order.records, (epoch + 1) * order.records)


@pytest.mark.parametrize(
    "size", [1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 63, 64, 65, 255, 256, 257, 1000, 4096, 4097, 100_003]
)
def test_permutation_is_a_bijection(size: int) -> None:
    """Every index is the image of one index, so every record is used exactly once per epoch."""
    for key in (0, 1, 2**64 - 1):
        assert np.array_equal(np.sort(permute(np.arange(size), size, key)), np.arange(size))


def test_permutation_needs_no_table() -> None:
    """Single positions, in any shape, have the same images as in the whole; here for Wikipedia's size."""
    size = 156_726_829
    few = np.array([[0, 5], [size - 1, 77_777_777]])
    together = permute(few, size, 9)
    assert together.shape == few.shape
    assert [[int(permute(np.array([index]), size, 9)[0]) for index in row] for row in few] == together.tolist()
    assert together.min() >= 0 and together.max() < size and len(np.unique(together)) == 4


def test_order_never_changes() -> None:
    """These values are part of the checkpoint format: a run resumed by a later version must use the same samples."""
    assert SampleOrder(10, seed=42).record_numbers(0, 20).tolist() == GOLDEN_10
    assert SampleOrder(156_726_829, seed=7).record_numbers(313_453_655, 313_453_661).tolist() == GOLDEN_WIKIPEDIA


def test_a_slice_is_part_of_the_whole() -> None:
    """A run can resume anywhere: any slice, also across epochs, equals that part of the sequence."""
    order = SampleOrder(7, seed=3)
    whole = order.record_numbers(0, 50)
    for start, stop in ((0, 3), (5, 9), (13, 36), (49, 50)):
        assert np.array_equal(order.record_numbers(start, stop), whole[start:stop])


def test_epochs_and_seeds_differ() -> None:
    orders = [epoch_of(SampleOrder(200, seed), epoch).tolist() for seed in (0, 1, 42) for epoch in (0, 1, 2)]
    assert len({tuple(order) for order in orders}) == 9
    for order in orders:
        assert sorted(order) == list(range(200))


def test_records_are_mixed_over_the_whole_set() -> None:
    """Records of a file have related texts: the place of a record in the epoch must not depend on its file."""
    records = 20_000
    for seed in range(5):
        numbers = epoch_of(SampleOrder(records, seed), 0)
        # Of independent uniform draws the correlation has deviation 1/sqrt(20,000) = 0.007.
        assert abs(np.corrcoef(np.arange(records), numbers)[0, 1]) < 0.03
        assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 0.03
        # A batch of 256 draws evenly from ten files: 25.6 each, deviation 4.8.
        per_file = np.bincount(numbers[:256] * 10 // records, minlength=10)
        assert per_file.min() >= 8 and per_file.max() <= 50


def test_file_order_without_shuffle() -> None:
    assert SampleOrder(4, seed=1, shuffle=False).record_numbers(2, 11).tolist() == [2, 3, 0, 1, 2, 3, 0, 1, 2]


@settings(deadline=None)
@given(st.lists(st.integers(1, 512), min_size=1, max_size=80), st.integers(1, 7))
def test_deal_takes_every_position_once(lengths: list[int], world_size: int) -> None:
    """Each rank's share is ascending, and no rank is idle while another one has two positions."""
    dealt = deal_to_ranks(np.array(lengths), world_size)
    assert len(dealt) == world_size
    assert sorted(np.concatenate(dealt).tolist()) == list(range(len(lengths)))
    assert all(np.all(np.diff(positions) > 0) for positions in dealt)
    assert min(len(lengths), world_size) == sum(len(positions) > 0 for positions in dealt)


def test_deal_balances_tokens() -> None:
    """Ranks wait for the slowest: shares differ by less than the longest sequence, in real batches hardly."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(10, 513, 256)
    loads = [int(lengths[positions].sum()) for positions in deal_to_ranks(lengths, 4)]
    assert max(loads) - min(loads) < 10
    assert [positions.tolist() for positions in deal_to_ranks(np.array([9, 1, 1, 1, 6]), 2)] == [[0], [1, 2, 3, 4]]


@given(st.lists(st.integers(1, 512), max_size=80), st.integers(1, 1200))
def test_cut_covers_all_within_the_limit(lengths: list[int], max_tokens: int) -> None:
    """Cuts have no gaps. Each one fits the limit or is a single long sequence, and could not take one more."""
    cuts = cut_by_tokens(np.array(lengths, dtype=np.int64), max_tokens)
    assert [position for cut in cuts for position in range(cut.start, cut.stop)] == list(range(len(lengths)))
    for cut in cuts:
        assert sum(lengths[cut]) <= max_tokens or cut.stop - cut.start == 1
    for cut in cuts[1:]:
        assert sum(lengths[cut]) + lengths[cut.start - 1] > max_tokens


def test_cut_examples() -> None:
    """The first one has the remainder. The last, during which ranks communicate, is as long as possible."""
    assert cut_by_tokens(np.array([4, 4, 4]), 8) == [slice(0, 1), slice(1, 3)]
    assert cut_by_tokens(np.array([9, 1, 9]), 8) == [slice(0, 1), slice(1, 2), slice(2, 3)]
    assert cut_by_tokens(np.array([], dtype=np.int64), 8) == []


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 60), st.integers(0, 60), st.integers(1, 40))
def test_sizes_of_a_growing_batch(start: int, growth: int, steps: int) -> None:
    """Linear from the first step to the end of the ramp, and constant after it; samples are the sums."""
    sizes = BatchSizes(start + growth, start, steps)
    found = [sizes.size(step) for step in range(steps + 5)]
    assert found[0] == (start if steps else start + growth) and found[steps:] == [start + growth] * 5
    assert all(abs(size - (start + growth * step / steps)) < 1 for step, size in enumerate(found[:steps]))
    assert found == sorted(found)
    assert [sizes.samples(step) for step in range(steps + 6)] == [sum(found[:step]) for step in range(steps + 6)]


def test_a_constant_batch() -> None:
    sizes = BatchSizes(7)
    assert [sizes.size(step) for step in (0, 5)] == [7, 7] and sizes.samples(10**9) == 7 * 10**9
