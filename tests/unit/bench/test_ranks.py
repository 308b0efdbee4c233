"""`bert-large bench ranks`: how sums are timed, who gets which cores, and its figures on tiny models."""

from __future__ import annotations

import json
import os

import pytest
from bert_large.bench import ranks
from bert_large.bench.rank_processes import BucketTimes
from bert_large.cli import main

TINY = ("--hidden-size", "32", "--attention-heads", "2", "--layers", "1", "--vocab-size", "50")


def test_times_of_buckets() -> None:
    """Sums that overlap count once; exposed is what comes after the last has begun."""
    times = BucketTimes(begun={0: 1.0, 1: 2.0, 2: 7.0}, done={0: 4.0, 1: 5.0, 2: 9.0})
    assert times.seconds == pytest.approx(4 + 2)
    assert times.exposed_seconds == pytest.approx(2)
    assert (BucketTimes().seconds, BucketTimes().exposed_seconds) == (0, 0)


def test_cores_are_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {9, 3, 4, 5, 8})
    assert ranks._split_cores(2) == [[3, 4], [5, 8]]
    assert ranks._split_cores(1) == [[3, 4, 5, 8, 9]]


def test_more_ranks_than_cores_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "ranks", *TINY, "--ranks", "1000"]) == 2
    assert "--ranks is 1000, expected a core for each at least" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_figures(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ("--global-batch-size", "8", "--rounds", "1", "--warmups", "0", "--bucket-mb", "0.05")
    assert main(["bench", "ranks", *TINY, *sizes, "--engine", "eager", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    names = {"ranks", "silent", "bucket_mb 0.05", "bf16", "zero1", "one"}
    assert figures["variants"].keys() == names
    assert figures["seconds"].keys() == names | {"plain", "plain bf16", "copy"}
    seconds, told = figures["seconds"], figures["variants"]
    assert figures["throughput_ratio"] == pytest.approx(seconds["one"]["minimum"] / seconds["ranks"]["minimum"])
    assert figures["communication_seconds_median"] == pytest.approx(
        seconds["ranks"]["median"] - seconds["silent"]["median"]
    )
    sent = told["ranks"]["sent_bytes"]
    assert figures["gradient_bytes"] == sent == 2 * told["bf16"]["sent_bytes"]
    assert told["silent"]["sent_bytes"] == told["one"]["sent_bytes"] == 0
    assert told["bucket_mb 0.05"]["buckets"] > told["ranks"]["buckets"] == 1
    assert 0 < told["ranks"]["exposed_seconds"] <= told["ranks"]["sum_seconds"] < seconds["ranks"]["median"] * 2
    assert told["ranks"]["optimizer_state_bytes"] == 2 * sent
    assert sent <= told["zero1"]["optimizer_state_bytes"] < 1.2 * sent
    assert figures["plain_sum_bytes_per_second"] == pytest.approx(sent / seconds["plain"]["minimum"])
