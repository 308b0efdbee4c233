"""HDF5 shards compared with one that NVIDIA's script made from MLCommons' sample text."""

from __future__ import annotations

import contextlib
from pathlib import Path

import h5py
import numpy as np
import pytest
from bert_large.data.formats.hdf5 import HDF5Shard
from bert_large.data.formats.shard_format import StoredRecord
from bert_large.data.formats.tfrecord import decode_record, iterate_payloads
from bert_large.data.record import RecordShape
from bert_large.prepare.casing import Casing
from bert_large.prepare.settings import InstanceSettings
from bert_large.prepare.shards import ShardTask, write_shard
from bert_large.prepare.vocab import read_vocab

from tests.support.records import assert_same_record

DATA = Path(__file__).parents[3] / "shared" / "data"
TEXT = DATA / "mlcommons_sample" / "text" / "part-00000-of-00002"
SHARD = DATA / "mlcommons_sample" / "hdf5_seq_128" / "wikicorpus_en_training_0.hdf5"
pytestmark = pytest.mark.skipif(not SHARD.is_file(), reason=f"needs NVIDIA's sample shard {SHARD}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the first 3,000 lines of the text, which is what NVIDIA's shard was made of, and our shards."""
    folder = tmp_path_factory.mktemp("nvidia")
    with TEXT.open(encoding="utf-8") as file:
        (folder / "text").write_text("".join(line for _, line in zip(range(3000), file, strict=False)))
    settings = InstanceSettings(dupe_factor=1)
    for output_format in ("hdf5", "tfrecord"):
        task = ShardTask(folder / "text", folder / output_format)
        write_shard(task, read_vocab(DATA / "vocab.txt"), settings, Casing(True, True), output_format)
    return folder


def test_our_shard_is_nvidias(folder: Path) -> None:
    """The same data sets, types, compression and values: this also shows that both reference scripts agree."""
    with h5py.File(folder / "hdf5") as ours, h5py.File(SHARD) as theirs:
        assert set(ours) == set(theirs)
        assert dict(ours.attrs) == dict(theirs.attrs) == {}
        for name in theirs:
            assert (ours[name].dtype, ours[name].compression) == (theirs[name].dtype, theirs[name].compression)
            assert dict(ours[name].attrs) == dict(theirs[name].attrs) == {}
            np.testing.assert_array_equal(ours[name][:], theirs[name][:], name)


def read_rows(path: Path) -> list[StoredRecord]:
    with contextlib.closing(HDF5Shard(path)) as shard:
        return [shard.read(offset, offset) for offset, _ in shard.scan()]


def test_our_shard_reads_as_the_tfrecord_of_the_same_text(folder: Path) -> None:
    decoded = [decode_record(payload) for _, payload in iterate_payloads(folder / "tfrecord")]
    rows = read_rows(folder / "hdf5")
    assert len(rows) == len(decoded) == 812
    assert {row.shape for row in rows} == {shape for _, shape in decoded}
    for row, (record, _) in zip(rows, decoded, strict=True):
        assert_same_record(row.record, record)


def test_nvidias_shard_reads_as_its_own_fields_say() -> None:
    rows = read_rows(SHARD)
    assert {row.shape for row in rows} == {RecordShape(128, 20)}
    records = [row.record for row in rows]
    with h5py.File(SHARD) as file:
        fields = {name: values[:] for name, values in file.items()}
    assert len(records) == len(fields["next_sentence_labels"]) == 812
    for row, record in enumerate(records):
        length = fields["input_mask"][row].sum()
        predictions = (fields["masked_lm_positions"][row] > 0).sum()
        assert record.input_ids.tolist() == fields["input_ids"][row, :length].tolist()
        assert not fields["input_ids"][row, length:].any()
        assert record.token_type_ids.tolist() == fields["segment_ids"][row, :length].tolist()
        assert record.masked_positions.tolist() == fields["masked_lm_positions"][row, :predictions].tolist()
        assert record.masked_ids.tolist() == fields["masked_lm_ids"][row, :predictions].tolist()
        assert record.next_sentence_label == fields["next_sentence_labels"][row]
