"""Made-up pretraining records, and folders of shards that hold them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
from bert_large.data.formats.tfrecord import encode_record, write_records
from bert_large.data.record import Record, RecordShape

VOCAB_SIZE = 100
PHASE_1_SHAPE = RecordShape(128, 20)
PHASE_2_SHAPE = RecordShape(512, 76)


def make_record(rng: np.random.Generator, length: int, predictions: int, *, vocab_size: int = VOCAB_SIZE) -> Record:
    """Return a record of random tokens: two segments, and `predictions` ascending masked positions other than 0."""
    first_segment = int(rng.integers(1, length + 1))
    return Record(
        input_ids=rng.integers(0, vocab_size, length).astype(np.int32),
        token_type_ids=(np.arange(length) >= first_segment).astype(np.uint8),
        masked_positions=np.sort(rng.choice(np.arange(1, length), predictions, replace=False)).astype(np.int32),
        masked_ids=rng.integers(0, vocab_size, predictions).astype(np.int32),
        next_sentence_label=int(rng.integers(0, 2)),
    )


def make_records(
    count: int, *, seed: int = 0, lengths: tuple[int, int] = (5, 40), vocab_size: int = VOCAB_SIZE
) -> list[Record]:
    """Return records of `lengths` (least, most) tokens, with 1 to 4 predictions each."""
    rng = np.random.default_rng(seed)
    return [
        make_record(rng, int(rng.integers(lengths[0], lengths[1] + 1)), int(rng.integers(1, 5)), vocab_size=vocab_size)
        for _ in range(count)
    ]


def write_shard(path: Path, records: Sequence[Record], shape: RecordShape = PHASE_1_SHAPE) -> Path:
    """Write a TFRecord shard and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        write_records(file, (encode_record(record, shape) for record in records))
    return path


def write_folder(
    folder: Path, records: Sequence[Record], *, shards: int = 1, shape: RecordShape = PHASE_1_SHAPE
) -> Path:
    """Write records to TFRecord shards of nearly equal numbers of records, and return the folder."""
    for number, part in enumerate(np.array_split(np.arange(len(records)), shards)):
        write_shard(folder / f"part-{number:05d}-of-{shards:05d}", [records[index] for index in part], shape)
    return folder


def write_hdf5_shard(path: Path, records: Sequence[Record], shape: RecordShape = PHASE_1_SHAPE) -> Path:
    """Write records as NVIDIA's script does: gzip datasets, with 4 bytes per id and position and 1 byte otherwise."""
    tokens = {name: np.zeros((len(records), shape.max_seq_length), np.int32) for name in ("input_ids", "input_mask",
              "segment_ids")}  # fmt: skip
    predictions = {name: np.zeros((len(records), shape.max_predictions), np.int32) for name in ("masked_lm_positions",
                   "masked_lm_ids")}  # fmt: skip
    for row, record in enumerate(records):
        length, masked = len(record.input_ids), len(record.masked_ids)
        tokens["input_ids"][row, :length] = record.input_ids
        tokens["input_mask"][row, :length] = 1
        tokens["segment_ids"][row, :length] = record.token_type_ids
        predictions["masked_lm_positions"][row, :masked] = record.masked_positions
        predictions["masked_lm_ids"][row, :masked] = record.masked_ids
    labels = np.array([record.next_sentence_label for record in records])
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, values in {**tokens, **predictions, "next_sentence_labels": labels}.items():
            small = name in ("input_mask", "segment_ids", "next_sentence_labels")
            file.create_dataset(name, data=values, dtype="i1" if small else "i4", compression="gzip")
    return path


def write_vocab(path: Path, size: int) -> Path:
    """Write a vocabulary of BERT's special tokens ([CLS] 2, [SEP] 3, [MASK] 4) and made-up words."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{index}" for index in range(size - 5))]
    path.write_text("".join(f"{token}\n" for token in tokens))
    return path


def assert_same_record(found: Record, expected: Record) -> None:
    """Compare the values and types of every field."""
    for name in ("input_ids", "token_type_ids", "masked_positions", "masked_ids"):
        ours, theirs = getattr(found, name), getattr(expected, name)
        assert ours.dtype == theirs.dtype, name
        np.testing.assert_array_equal(ours, theirs, err_msg=name)
    assert (found.next_sentence_label, found.part_starts) == (expected.next_sentence_label, expected.part_starts)
