"""Our records and evaluation picks against those of MLCommons' scripts from the same text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bert_large.data.formats.tfrecord import decode_record, iterate_payloads
from bert_large.data.record import Record, RecordShape
from bert_large.prepare.casing import Casing
from bert_large.prepare.pick import pick_records
from bert_large.prepare.settings import InstanceSettings
from bert_large.prepare.shards import ShardTask, write_shard
from bert_large.prepare.vocab import read_vocab

DATA = Path(__file__).parents[3] / "shared" / "data"
SAMPLE = DATA / "mlcommons_sample"
pytestmark = pytest.mark.skipif(not SAMPLE.is_dir(), reason=f"needs MLCommons' sample data in {SAMPLE}")


def read(path: Path) -> list[tuple[Record, RecordShape]]:
    return [decode_record(payload) for _, payload in iterate_payloads(path)]


def assert_equal(ours: Path, theirs: Path) -> None:
    """Compare all fields of all records, in order."""
    our_records, their_records = read(ours), read(theirs)
    assert len(our_records) == len(their_records) > 0
    for index, ((our, our_shape), (their, their_shape)) in enumerate(zip(our_records, their_records, strict=True)):
        assert our_shape == their_shape
        for name in Record.__dataclass_fields__:
            np.testing.assert_array_equal(getattr(our, name), getattr(their, name), f"record {index}: {name}")


@pytest.mark.parametrize("text", ["part-00000-of-00002", "part-00001-of-00002"])
@pytest.mark.parametrize(("tokens", "predictions", "suffix"), [(128, 20, "_128"), (512, 76, "")])
def test_records_equal_those_of_mlcommons(
    tmp_path: Path, text: str, tokens: int, predictions: int, suffix: str
) -> None:
    settings = InstanceSettings(max_seq_length=tokens, max_predictions_per_seq=predictions, dupe_factor=1)
    task = ShardTask(SAMPLE / "text" / text, tmp_path / "out")
    write_shard(task, read_vocab(DATA / "vocab.txt"), settings, Casing(True, True))
    assert_equal(tmp_path / "out", SAMPLE / f"seq_{tokens}" / f"{text}{suffix}")


def test_pick_equals_that_of_mlcommons(tmp_path: Path) -> None:
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "part").symlink_to(SAMPLE / "seq_512" / "part-00001-of-00002")
    pick_records(tmp_path / "records", tmp_path / "out", 200)
    assert_equal(tmp_path / "out", SAMPLE / "eval" / "eval_10k")
