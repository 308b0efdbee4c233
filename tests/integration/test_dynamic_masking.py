"""New masks for every sample of every epoch: the same run on any number of ranks, resumed or not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bert_large.data.loader import StepBatches
from bert_large.data.record import Record

from tests.support.records import make_records, write_folder, write_hdf5_shard, write_vocab
from tests.support.runs import Task, assert_same_losses, run_here, run_torchrun, step_rows, without_timings

CLS, SEP, MASK = 2, 3, 4  # of `write_vocab`


def with_special_tokens(record: Record) -> Record:
    """Return a record that begins with [CLS], ends with [SEP], and has no other special tokens."""
    ids = np.maximum(record.input_ids, SEP + 1)
    ids[0], ids[-1] = CLS, SEP
    at = record.masked_positions.clip(1, len(ids) - 2)
    record.masked_ids[:] = np.maximum(record.masked_ids, MASK + 1)
    return Record(ids, record.token_type_ids, np.unique(at), record.masked_ids[: len(np.unique(at))], 0)


RECORDS = [with_special_tokens(record) for record in make_records(24, lengths=(10, 60))]


@pytest.fixture(scope="module")
def masked_task(task: Task, tmp_path_factory: pytest.TempPathFactory) -> Task:
    """Eight steps of eight samples from 24 records: more than two epochs."""
    folder = tmp_path_factory.mktemp("masked")
    write_folder(folder / "data" / "seq_128", RECORDS, shards=2)
    vocab_file = write_vocab(folder / "vocab.txt", 100)
    settings = {"dynamic_masking": True, "vocab_file": vocab_file, "eval_dir": "none", "save_every": 2}
    return Task(folder / "data", task.config_file, task.settings | settings)


@pytest.fixture(scope="module")
def masked(masked_task: Task, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of an uninterrupted run."""
    return masked_task.run(tmp_path_factory.mktemp("finished") / "out")


def test_every_epoch_has_other_masks(masked_task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the same texts. The masks of the first epoch differ from those stored in the records too."""
    seen: list[dict[tuple[int, ...], tuple[int, ...]]] = [{}, {}]
    read = StepBatches.read

    def watch(self: StepBatches, step: int) -> Any:
        batches, bad = read(self, step)
        for batch in batches:
            ids = batch.input_ids.clone()
            ids[batch.masked_positions] = batch.masked_labels
            for row, (start, stop) in enumerate(zip(batch.cu_seqlens[:-1], batch.cu_seqlens[1:], strict=True)):
                at = batch.masked_positions[(batch.masked_positions >= start) & (batch.masked_positions < stop)] - start
                epoch = int(batch.samples[row]) // len(RECORDS)
                if epoch < 2:
                    seen[epoch][tuple(ids[start:stop].tolist())] = tuple(at.tolist())
        return batches, bad

    monkeypatch.setattr(StepBatches, "read", watch)
    masked_task.run(tmp_path, max_steps=6)
    own = {}
    for record in RECORDS:
        ids = record.input_ids.copy()
        ids[record.masked_positions] = record.masked_ids
        own[tuple(ids.tolist())] = tuple(record.masked_positions.tolist())
    assert own.keys() == seen[0].keys() == seen[1].keys()
    for one, other in ((own, seen[0]), (seen[0], seen[1])):
        assert sum(one[text] == other[text] for text in own) < 6


def test_the_log_describes_it(masked: Path) -> None:
    words = "100 words, [CLS] 2, [SEP] 3, [MASK] 4"
    assert words in (masked / "train.log").read_text()
    assert json.loads((masked / "run.json").read_text())["dynamic_masking"] == words


def test_stopped_and_resumed(masked_task: Task, masked: Path, tmp_path: Path) -> None:
    """The run is equal bit for bit."""
    for steps in (1, 4, 8):
        masked_task.run(tmp_path, max_steps=steps, total_steps=8)
    assert without_timings(step_rows(tmp_path)) == without_timings(step_rows(masked))
    name = "model_save/model.safetensors"
    assert (tmp_path / name).read_bytes() == (masked / name).read_bytes()


@pytest.mark.slow
def test_ranks_and_micro_batches_change_nothing(masked_task: Task, masked: Path, tmp_path: Path) -> None:
    done = run_torchrun(2, *masked_task.arguments(tmp_path, micro_batch_tokens=256, data_workers=1))
    assert done.returncode == 0, done.stderr
    assert_same_losses(tmp_path, masked)


def test_hdf5_gives_the_same_masks(masked_task: Task, masked: Path, tmp_path: Path) -> None:
    for number in range(2):
        write_hdf5_shard(tmp_path / "data" / f"part_{number}.hdf5", RECORDS[12 * number :][:12])
    masked_task.run(tmp_path / "out", dataset_dir=tmp_path / "data", micro_batch_tokens=300)
    assert_same_losses(tmp_path / "out", masked)


def test_bad_records_are_skipped(masked_task: Task, tmp_path: Path) -> None:
    """The record that replaces it gets the masks of the sample that it is used for."""
    folder = tmp_path / "data"
    write_folder(folder, RECORDS)
    (shard,) = folder.iterdir()
    damaged = bytearray(shard.read_bytes())
    damaged[20] ^= 1
    shard.write_bytes(damaged)
    assert run_here(*masked_task.arguments(tmp_path / "out", dataset_dir=folder)) == 2
    masked_task.run(tmp_path / "skipping", dataset_dir=folder, bad_records="skip")
    assert "1 bad records skipped" in (tmp_path / "skipping" / "train.log").read_text()
    assert len(step_rows(tmp_path / "skipping")) == 8


def test_a_run_keeps_its_masking(masked_task: Task, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    masked_task.run(tmp_path, max_steps=2, total_steps=8)
    assert run_here(*masked_task.arguments(tmp_path, dynamic_masking=None)) == 2
    assert "dynamic_masking was 100 words" in capsys.readouterr().err
    other = write_vocab(tmp_path / "other.txt", 90)
    assert run_here(*masked_task.arguments(tmp_path, vocab_file=other)) == 2
    assert "dynamic_masking was 100 words" in capsys.readouterr().err


def test_the_vocabulary_of_the_records_is_needed(
    masked_task: Task, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_here(*masked_task.arguments(tmp_path / "out", vocab_file=None)) == 2
    assert "--vocab-file" in capsys.readouterr().err
    other = tmp_path / "vocab.txt"
    other.write_text("[UNK]\n[PAD]\n[SEP]\n[CLS]\n[MASK]\n")
    assert run_here(*masked_task.arguments(tmp_path / "out", vocab_file=other)) == 2
    assert "--vocab-file" in capsys.readouterr().err
