"""Random training records with the lengths of real ones.

The lengths are those of the 512-token Wikipedia pretraining set, as published in graphcore/examples,
tutorials/blogs_code/packedBERT. For phase 1, they are cut at 128 tokens.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bert_large.config.training import PHASE_PREDICTIONS, PHASE_SEQ_LENGTHS
from bert_large.data.formats.tfrecord import encode_record, write_records
from bert_large.data.masking import MASKED_LM_PROB
from bert_large.data.record import Record, RecordShape
from bert_large.storage.atomic import write_atomically

LENGTHS_FILE = Path(__file__).with_name("wikipedia_lengths.json")


@dataclass(frozen=True)
class LengthHistogram:
    """Number of sequences of each length."""

    counts: NDArray[np.int64]
    """[longest] number of sequences of i + 1 tokens."""

    @classmethod
    def read(cls, path: Path = LENGTHS_FILE) -> LengthHistogram:
        """Read the histogram that comes with the package."""
        histogram = json.loads(path.read_text(encoding="utf-8"))
        counts = [0] * (histogram["shortest"] - 1) + histogram["counts"]
        return cls(np.array(counts, dtype=np.int64))

    @property
    def mean(self) -> float:
        """Mean tokens per sequence."""
        return float(self.counts @ np.arange(1, len(self.counts) + 1) / self.counts.sum())

    def cut_at(self, longest: int) -> LengthHistogram:
        """Return the histogram with all longer sequences cut to `longest` tokens."""
        counts = self.counts[:longest].copy()
        counts[-1] += self.counts[longest:].sum()
        return LengthHistogram(counts)

    def draw(self, generator: np.random.Generator, count: int) -> NDArray[np.int64]:
        """Return `count` ascending random lengths, one from each of `count` parts of equal weight of the histogram.

        So even a small batch has nearly the histogram's mean length, but each batch has another number of tokens, as in
        training: products that are compiled for each new size show what that costs.
        """
        quantiles = (np.arange(count) + generator.random(count)) / count
        return np.searchsorted(np.cumsum(self.counts), quantiles * self.counts.sum(), side="right") + 1


def phase_lengths(phase: int) -> LengthHistogram:
    """Return the histogram of a phase's sequences."""
    return LengthHistogram.read().cut_at(PHASE_SEQ_LENGTHS[phase])


def make_record(generator: np.random.Generator, length: int, *, max_predictions: int, vocab_size: int) -> Record:
    """Return a record of random tokens: two segments, 15% of the tokens masked (at least one)."""
    predictions = min(max_predictions, max(1, round(length * MASKED_LM_PROB)))
    masked_positions = generator.choice(np.arange(1, length), predictions, replace=False)
    return Record(
        input_ids=generator.integers(1, vocab_size, length).astype(np.int32),
        token_type_ids=(np.arange(length) >= generator.integers(2, length)).astype(np.uint8),
        masked_positions=np.sort(masked_positions).astype(np.int32),
        masked_ids=generator.integers(1, vocab_size, predictions).astype(np.int32),
        next_sentence_label=int(generator.integers(0, 2)),
    )


def write_dataset(folder: Path, *, phase: int, batches: int, batch_size: int, vocab_size: int) -> None:
    """Write one shard of `batches` batches of a phase's records, each with other lengths."""
    generator = np.random.default_rng(0)
    shape = RecordShape(PHASE_SEQ_LENGTHS[phase], PHASE_PREDICTIONS[phase])
    histogram = phase_lengths(phase)
    lengths = np.concatenate([generator.permutation(histogram.draw(generator, batch_size)) for _ in range(batches)])
    limits = {"max_predictions": shape.max_predictions, "vocab_size": vocab_size}
    records = (make_record(generator, int(length), **limits) for length in lengths)
    with write_atomically(folder / "part-00000-of-00001") as file:
        write_records(file, (encode_record(record, shape) for record in records))
