"""The model of many sockets: its parts computed by hand."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path

import pytest
import scaling
from bert_large.config.model import ModelConfig
from bert_large.engines.eager import EagerEngine
from bert_large.errors import InputError
from bert_large.model.bert import BertForPreTraining
from scaling import Cluster, Inputs
from torch import device

INPUTS = dataclasses.replace(Inputs.read(), optimizer_over_bound=0.5, clip_and_optimizer_over_bound=0.75)
PAIR = Cluster(
    ranks=2, sequences_per_second=10.0, memory_bytes_per_second=40e9, network_bytes_per_second=1e9,
    latency_seconds=0.0, micro_batch_tokens=256,
)  # fmt: skip
BYTES = 4 * scaling.PARAMETERS


def test_the_parameters_are_those_of_the_model() -> None:
    with device("meta"):
        model = BertForPreTraining(ModelConfig(), EagerEngine())
    assert sum(parameter.numel() for parameter in model.parameters()) == scaling.PARAMETERS


def test_a_ring() -> None:
    """Two ranks send all bytes once, many ranks twice; each message costs its latency, larger buckets have fewer."""
    assert scaling.sum_seconds(PAIR, 1e9) == pytest.approx(4.0)
    many = dataclasses.replace(PAIR, ranks=1000)
    assert scaling.sum_seconds(many, 1e9) == pytest.approx(2 * 0.999 * 4.0)
    assert scaling.sum_seconds(dataclasses.replace(PAIR, ranks=1), 1e9) == 0
    slow = dataclasses.replace(PAIR, latency_seconds=1e-3, bucket_mb=4e9 / 2**20 / 100)
    assert scaling.sum_seconds(slow, 1e9) == pytest.approx(4.0 + 2 * 100 * 1e-3 / 2)
    assert scaling.sum_seconds(dataclasses.replace(PAIR, sum_bytes_per_second=0.5e9), 1e9) == pytest.approx(8.0)
    assert scaling.sum_seconds(scaling.compressed(PAIR, INPUTS), 1e9) == pytest.approx(2.0)


def test_a_step() -> None:
    """100 sequences per rank at 10 per second; the exposed part; 40 bytes per parameter at 40 GB/s, times 3/4."""
    step = scaling.step_seconds(PAIR, 200, INPUTS)
    assert step.compute == pytest.approx(10.0)
    assert step.imbalance == pytest.approx(10.0 * (scaling.balance(2, 200) - 1)) and 0 <= step.imbalance < 0.01
    assert step.summing == pytest.approx(BYTES / 1e9)
    window = 10.0 * 256 / (100 * 255.83) * 2 / 3
    words = 4 * 30522 * 1024
    assert step.exposed == pytest.approx((BYTES - words) / 1e9 - window + words / 1e9, rel=1e-4)
    assert step.optimizer == pytest.approx(0.75 * scaling.PARAMETERS * 1e-9)
    assert step.total == pytest.approx(step.compute + step.imbalance + step.exposed + step.optimizer)
    assert scaling.efficiency(PAIR, 200, INPUTS) == step.compute / step.total


def test_the_word_embeddings_cannot_be_hidden() -> None:
    step = scaling.step_seconds(dataclasses.replace(PAIR, micro_batch_tokens=1 << 20), 200, INPUTS)
    assert step.exposed == pytest.approx(4 * 30522 * 1024 / 1e9)


def test_one_rank_sends_nothing() -> None:
    step = scaling.step_seconds(dataclasses.replace(PAIR, ranks=1, zero1=True), 100, INPUTS)
    assert (step.exposed, step.imbalance) == (0, 0)
    assert step.optimizer == pytest.approx(0.75 * scaling.PARAMETERS * 1e-9)


def test_divided_optimizer_state() -> None:
    """Half of the time of LAMB, all of that of clipping, and each rank sends its half of the weights."""
    step = scaling.step_seconds(dataclasses.replace(PAIR, zero1=True), 200, INPUTS)
    assert step.optimizer == pytest.approx((0.25 + 0.5 / 2) * scaling.PARAMETERS * 1e-9 + BYTES / 2 / 1e9)


def test_samples_to_the_target() -> None:
    assert scaling.samples_to_target(256) == 2.55e6
    assert scaling.samples_to_target(2304) == pytest.approx((2.78e6 + 2.76e6) / 2)


def test_minutes_to_the_target() -> None:
    """If only computing takes time: that of training, and a third of it per evaluated sequence."""
    free = dataclasses.replace(
        PAIR, memory_bytes_per_second=math.inf, network_bytes_per_second=math.inf, sequences_per_second=100.0
    )
    training = 2.41e6 / 200 * scaling.balance(2, 448)
    evaluations = 2.41e6 // 150_000 * 10_000 / 200 / 3
    assert scaling.minutes_to_target(free, 448, INPUTS) == pytest.approx((training + evaluations) / 60)


def test_calibration() -> None:
    found = scaling.calibrate(PAIR, 5000.0, 448, INPUTS)
    assert scaling.minutes_to_target(found, 448, INPUTS) == pytest.approx(5000.0)
    with pytest.raises(InputError):
        scaling.calibrate(PAIR, 1.0, 448, INPUTS)


def test_intels_runs_are_reproduced() -> None:
    """Eight nodes train at the published rate by construction; the prediction for sixteen is within a tenth of it."""
    inputs = Inputs.read()
    for nodes, tolerance in ((8, 1e-6), (16, 0.1)):
        cluster = scaling.socket_cluster(inputs, 200, gloo=False, ranks=2 * nodes)
        batch, rate = scaling.INTEL_RUNS[nodes]
        minutes = scaling.minutes_to_target(cluster, batch, inputs)
        assert scaling.samples_to_target(batch) / minutes / 60 == pytest.approx(rate, rel=tolerance)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It prints the tables, or replaces those of a document that has their marks."""
    assert scaling.main(["--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    path = tmp_path / "notes.md"
    path.write_text(f"before\n{scaling.START}\nold\n{scaling.END}\nafter\n")
    assert scaling.main(["--update", str(path)]) == 0
    assert path.read_text() == f"before\n{scaling.START}\n\n{scaling.render(results)}\n\n{scaling.END}\nafter\n"
    path.write_text("no marks")
    with pytest.raises(InputError, match=re.escape(str(path))):
        scaling.main(["--update", str(path)])
