"""The content of the MLPerf log, and the cold cache that it needs."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from bert_large.config.training import DataConfig, MlperfConfig, OptimConfig
from bert_large.distributed.collectives import Ranks
from bert_large.train.cadence import Cadence
from bert_large.train.mlperf import forget_records, submission_settings

from tests.support.training import train_config


def test_settings_of_the_submission(tmp_path: Path) -> None:
    """Every setting has another value, so that none is mistaken for another."""
    config = MlperfConfig(log=tmp_path, submitter="who", platform="what", division="open", status="cloud")
    optim = OptimConfig(
        learning_rate=0.5, beta_1=0.25, beta_2=0.375, epsilon=0.125, weight_decay=0.625, max_gradient_norm=0.75,
        total_steps=11, warmup_steps=3, start_warmup_step=-5, decay_power=0.875,
    )  # fmt: skip
    assert submission_settings(config, optim, train_config(tmp_path, seed=9, global_batch_size=16)) == {
        "submission_benchmark": "bert", "submission_division": "open", "submission_org": "who",
        "submission_platform": "what", "submission_status": "cloud", "seed": 9, "global_batch_size": 16,
        "opt_name": "lamb", "opt_base_learning_rate": 0.5, "opt_lamb_epsilon": 0.125, "opt_lamb_beta_1": 0.25,
        "opt_lamb_beta_2": 0.375, "opt_lamb_weight_decay_rate": 0.625, "opt_gradient_clip_norm": 0.75,
        "opt_lamb_learning_rate_decay_poly_power": 0.875, "opt_learning_rate_training_steps": 11,
        "opt_learning_rate_warmup_steps": 3, "num_warmup_steps": 3, "start_warmup_step": -5,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("samples", "expected"),
    [(0, 24), (24, 16), (40, 24), (64, 16)],  # evaluations every 20 samples, at 24, 40, 64; the end at 80
)
def test_a_block_ends_at_the_next_evaluation_or_the_end(tmp_path: Path, samples: int, expected: int) -> None:
    assert Cadence(train_config(tmp_path, eval_every_samples=20)).block_length(samples) == expected
    assert Cadence(train_config(tmp_path, eval_every_samples=1000)).block_length(samples) == 80 - samples
    short = train_config(tmp_path, eval_every_samples=1000, max_samples=66)
    assert Cadence(short).block_length(samples) == 72 - samples


def test_records_are_dropped_from_the_page_cache(tmp_path: Path) -> None:
    """Of training and evaluation records, no page is cached afterwards, as reported by util-linux's `fincore`."""
    if shutil.which("fincore") is None:
        pytest.skip("fincore is not installed")
    shards = [tmp_path / "data" / "seq_128" / "part-0", tmp_path / "eval" / "part-0"]
    for shard in shards:
        shard.parent.mkdir(parents=True)
        shard.write_bytes(bytes(100_000))
    subprocess.run(["sync", *shards], check=True)
    if 0 in map(cached_pages, shards) or subprocess.run(["stat", "-fc%T", tmp_path], capture_output=True, check=True,
                                                        text=True).stdout.strip() == "tmpfs":  # fmt: skip
        pytest.skip("the temporary folder is not on a disk with a page cache")
    data = DataConfig(dataset_dir=tmp_path / "data", eval_dir=tmp_path / "eval", max_seq_length=128)
    forget_records(data, Ranks())
    assert [cached_pages(shard) for shard in shards] == [0, 0]


def cached_pages(path: Path) -> int:
    printed = subprocess.run(
        ["fincore", "--noheadings", "--output", "PAGES", path], capture_output=True, check=True, text=True
    )
    return int(printed.stdout)
