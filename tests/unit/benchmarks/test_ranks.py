"""The benchmark of several ranks: times of overlapping sums, cores per rank, and its results on tiny models."""

from __future__ import annotations

import json
import os

import pytest
import ranks
from bert_large.errors import InputError
from rank_processes import BucketTimes

TINY = ("--hidden-size", "32", "--attention-heads", "2", "--layers", "1", "--vocab-size", "50")


def test_times_of_buckets() -> None:
    """Overlapping sums count once; the exposed time begins with the last sum."""
    times = BucketTimes(begun={0: 1.0, 1: 2.0, 2: 7.0}, done={0: 4.0, 1: 5.0, 2: 9.0})
    assert times.seconds == pytest.approx(4 + 2)
    assert times.exposed_seconds == pytest.approx(2)
    assert (BucketTimes().seconds, BucketTimes().exposed_seconds) == (0, 0)


def test_cores_are_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {9, 3, 4, 5, 8})
    assert ranks._split_cores(2) == [[3, 4], [5, 8]]
    assert ranks._split_cores(1) == [[3, 4, 5, 8, 9]]


def test_wrong_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="--ranks is 1000"):
        ranks.main([*TINY, "--ranks", "1000"])
    for text in ("nan", "inf", "0", "-1", "wide"):
        with pytest.raises(SystemExit) as caught:
            ranks.main([*TINY, f"--bucket-mb={text}"])
        assert caught.value.code == 2
        assert "--bucket-mb" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_results_are_consistent(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ("--global-batch-size", "8", "--rounds", "1", "--warmups", "0", "--bucket-mb", "0.05")
    assert ranks.main([*TINY, *sizes, "--engine", "eager", "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    names = {"ranks", "silent", "bucket_mb 0.05", "bf16", "zero1", "one"}
    assert results["variants"].keys() == names
    assert results["seconds"].keys() == names | {"plain", "plain bf16", "copy"}
    seconds, variants = results["seconds"], results["variants"]
    for key, other in (("throughput_ratio", "one"), ("throughput_over_silent", "silent")):
        assert results[key]["median"] == pytest.approx(seconds[other]["median"] / seconds["ranks"]["median"])
    sent = variants["ranks"]["sent_bytes"]
    assert results["gradient_bytes"] == sent == 2 * variants["bf16"]["sent_bytes"]
    assert variants["silent"]["sent_bytes"] == variants["one"]["sent_bytes"] == 0
    assert variants["bucket_mb 0.05"]["buckets"] > variants["ranks"]["buckets"] == 1
    assert 0 < variants["ranks"]["exposed_seconds"] <= variants["ranks"]["sum_seconds"]
    assert variants["ranks"]["optimizer_state_bytes"] == 2 * sent
    assert sent <= variants["zero1"]["optimizer_state_bytes"] < 1.2 * sent
    assert results["plain_sum_bytes_per_second"] == pytest.approx(sent / seconds["plain"]["median"])
    assert "plain sum" in ranks.render(results)
