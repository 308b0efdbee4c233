"""The files that users of Intel's package parse."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml
from bert_large.observe.metrics import StepMetrics
from bert_large.observe.results import StepTotals, Summary, write_results

from tests.support.training import step_metrics

SUMMARY = Summary(sequences_per_second=123.4564, step_seconds=3.6288123, masked_lm_accuracy=0.71204567)


def totals(metrics: Sequence[StepMetrics], warmup_steps: int) -> StepTotals:
    found = StepTotals(warmup_steps=warmup_steps)
    for step in metrics:
        found.add(step)
    return found


def test_summary_log_line(tmp_path: Path) -> None:
    """The exact line that Intel's scripts write and read; runs append to the file."""
    write_results(tmp_path, SUMMARY, phase=1, precision="bf16", global_batch_size=448)
    write_results(tmp_path, SUMMARY, phase=2, precision="fp32", global_batch_size=28)
    assert (tmp_path / "summary.log").read_text() == (
        "BERT;training phase1 throughput;bf16; 448;123.456\nBERT;training phase2 throughput;fp32; 28;123.456\n"
    )


def test_results_yaml(tmp_path: Path) -> None:
    """Entries of key, value and unit, of the last run."""
    for _ in range(2):
        write_results(tmp_path, SUMMARY, phase=1, precision="bf16", global_batch_size=448)
    assert yaml.safe_load((tmp_path / "results.yaml").read_text()) == {
        "results": [
            {"key": "throughput", "value": 123.456, "unit": "sentence/s"},
            {"key": "latency", "value": 3.628812, "unit": "s/step"},
            {"key": "accuracy", "value": 0.712046, "unit": "masked_lm_accuracy"},
        ]
    }


def test_throughput_line() -> None:
    assert SUMMARY.throughput_line() == "Throughput: 123.456 sentence/s"


@pytest.mark.parametrize(("steps", "seconds"), [(4, 2.0), (3, 3.0), (2, 30.0)])
def test_first_steps_are_left_out_of_the_timing(steps: int, seconds: float) -> None:
    """They warm up caches. If there are no other steps, they are timed."""
    durations = [50.0, 10.0, 3.0, 1.0][:steps]
    metrics = [
        step_metrics(step, seconds=duration, sequences_per_second=8 / duration)
        for step, duration in enumerate(durations, start=1)
    ]
    summary = totals(metrics, 2).summarize(None)
    assert summary.step_seconds == seconds
    assert summary.sequences_per_second == pytest.approx(8 / seconds)


def test_the_accuracy_is_that_of_the_last_evaluation_if_any() -> None:
    metrics = [step_metrics(1, masked_lm_accuracy=0.1), step_metrics(2, masked_lm_accuracy=0.2)]
    assert totals(metrics, 0).summarize(0.0).masked_lm_accuracy == 0.0
    assert totals(metrics, 0).summarize(None).masked_lm_accuracy == 0.2
