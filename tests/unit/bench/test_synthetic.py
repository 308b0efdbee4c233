"""The histogram of real sequence lengths, and random records of these lengths."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from bert_large.bench.synthetic import LengthHistogram, make_record, phase_lengths, write_dataset
from bert_large.data.index import scan_shard
from bert_large.data.record import RecordLimits, RecordShape


def test_the_histogram_is_that_of_the_512_token_set() -> None:
    """255.8 tokens on average; the shortest sequence has five."""
    histogram = phase_lengths(2)
    assert histogram.mean == pytest.approx(255.8, abs=0.05)
    assert histogram.counts.sum() == 16_279_552
    assert len(histogram.counts) == 512 and np.flatnonzero(histogram.counts)[0] == 4


def test_the_histogram_is_the_shared_one() -> None:
    shared = Path(__file__).parents[4] / "shared/data/wikipedia_lengths_512.json"
    if not shared.is_file():
        pytest.skip(f"{shared} does not exist")
    assert phase_lengths(2).counts.tolist() == json.loads(shared.read_text())["counts"]


def test_phase_1_is_cut_at_128() -> None:
    whole, cut = phase_lengths(2).counts, phase_lengths(1).counts
    assert len(cut) == 128 and cut.sum() == whole.sum()
    assert cut[:127].tolist() == whole[:127].tolist() and cut[127] == whole[127:].sum()


def test_lengths_are_drawn_from_equal_parts() -> None:
    """The quarters of the lengths 1, 2, 2, 4."""
    histogram = LengthHistogram(np.array([1, 2, 0, 1]))
    generator = np.random.default_rng(0)
    assert all(histogram.draw(generator, 4).tolist() == [1, 2, 2, 4] for _ in range(100))
    drawn = np.concatenate([histogram.draw(generator, 1) for _ in range(1000)])
    assert np.bincount(drawn, minlength=5) / 1000 == pytest.approx([0, 0.25, 0.5, 0, 0.25], abs=0.05)


@pytest.mark.parametrize("phase", [1, 2])
def test_a_small_batch_has_nearly_the_mean_of_all(phase: int) -> None:
    histogram, generator = phase_lengths(phase), np.random.default_rng(0)
    means = [histogram.draw(generator, 8).mean() for _ in range(50)]
    assert means == pytest.approx([histogram.mean] * 50, rel=0.15)
    assert np.mean(means) == pytest.approx(histogram.mean, rel=0.02)


@pytest.mark.parametrize(("length", "predictions"), [(5, 1), (100, 15), (512, 76)])
def test_a_record_masks_15_percent(length: int, predictions: int) -> None:
    record = make_record(np.random.default_rng(0), length, max_predictions=76, vocab_size=50)
    assert len(record.input_ids) == length and len(record.masked_ids) == predictions
    assert np.all(np.diff(record.masked_positions) > 0) and record.masked_positions[0] >= 1
    assert {int(record.token_type_ids[0]), int(record.token_type_ids[-1])} == {0, 1}


def test_every_batch_of_a_dataset_has_lengths_of_its_own(tmp_path: Path) -> None:
    write_dataset(tmp_path, phase=1, batches=3, batch_size=16, vocab_size=50)
    shard = scan_shard(tmp_path / "part-00000-of-00001", RecordLimits(50, 128))
    assert shard.shape == RecordShape(128, 20)
    totals = shard.lengths.reshape(3, 16).sum(axis=1)
    assert len(set(totals.tolist())) == 3
    assert totals == pytest.approx([16 * phase_lengths(1).mean] * 3, rel=0.1)
