"""Training in the container by run.sh: both phases of a small BERT, stopping and resuming, and making records."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from bert_large.data.formats.tfrecord import encode_record, iterate_payloads, write_records
from bert_large.data.record import Record, RecordShape
from safetensors.numpy import load_file

from .caller import Caller
from .engine import IPEX, PROJECT, Engine, Image

CONFIG: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "initializer_range": 0.02,
}
STEPS = 6
TEXT = "the cat saw the dog .\nthe dog saw the cat .\nthe cat ran .\n\nthe dog ran .\nthe cat sat .\nthe dog sat .\n"
COUNT_THREADS = """
import pathlib, torch
from bert_large.engines import resolve_engine

def threads():
    return len(list(pathlib.Path("/proc/self/task").iterdir()))

resolve_engine("native")
torch.set_num_threads(3)
before = threads()
values = torch.randn(4096, 1024)
torch.relu(values)
torch.ops.bert_large.gelu(values, torch.zeros(1024), "tanh", torch.empty_like(values))
loaded = pathlib.Path("/proc/self/maps").read_text()
print(1 + threads() - before, "intel" if "libiomp5" in loaded else "pytorch")
"""
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "the", "cat", "dog", "saw", "ran", "sat"]


def random_records(shape: RecordShape, count: int) -> list[bytes]:
    """Return serialized records of random tokens and random lengths."""
    random = np.random.default_rng(shape.max_seq_length)
    payloads = []
    for _ in range(count):
        length = int(random.integers(8, shape.max_seq_length + 1))
        positions = np.sort(random.choice(np.arange(1, length), size=min(shape.max_predictions, length // 7 + 1)))
        record = Record(
            input_ids=random.integers(5, CONFIG["vocab_size"], length).astype(np.int32),
            token_type_ids=(np.arange(length) >= length // 2).astype(np.uint8),
            masked_positions=np.unique(positions).astype(np.int32),
            masked_ids=random.integers(5, CONFIG["vocab_size"], len(np.unique(positions))).astype(np.int32),
            next_sentence_label=int(random.integers(2)),
        )
        payloads.append(encode_record(record, shape))
    return payloads


@pytest.fixture
def trainee(caller: Caller, image: Image) -> Caller:
    """The caller with an image, shards of both lengths, held-out records, and the settings of a short run."""
    dataset = Path(caller.variables["DATASET_DIR"])
    for folder, name, shape in (
        ("seq_128", "part-00000-of-00001_128", RecordShape(128, 20)),
        ("seq_512", "part-00000-of-00001", RecordShape(512, 76)),
        ("held out", "eval_10k", RecordShape(512, 76)),
    ):
        (dataset / folder).mkdir()
        with (dataset / folder / name).open("wb") as file:
            write_records(file, random_records(shape, 40))
    Path(caller.variables["CONFIG_FILE"]).write_text(json.dumps(CONFIG))
    caller.variables |= {
        "IMAGE_NAME": image.name,
        "EVAL_DIR": str(dataset / "held out"),
        "BATCH_SIZE": "8",
        "MAX_STEPS": str(STEPS),
        "LEARNING_RATE": "1e-3",
        "SEED": "3",
    }
    caller.own()
    return caller


def train(caller: Caller, *arguments: str) -> Path:
    """Run run.sh, which must succeed, and return its output folder."""
    result = caller.run(*arguments)
    assert result.returncode == 0, result.stdout + result.stderr
    return Path(caller.variables["OUTPUT_DIR"])


def events(output: Path, kind: str) -> list[dict[str, Any]]:
    """Return the rows of a kind from a run's metrics, in order."""
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == kind]


def test_too_little_memory_is_said_before_training(trainee: Caller) -> None:
    """BERT-large needs more than the container's limit: one line instead of a kill without a word."""
    trainee.variables |= {"CONFIG_FILE": "bert-large", "DOCKER_ARGS": "--memory 2g --memory-swap 2g"}
    result = trainee.run()
    assert result.returncode == 2, result.stderr
    last = result.stderr.splitlines()[-1]
    assert "memory" in last and re.search(r"\b[12]\.\d\d GiB available", last)
    assert not (Path(trainee.variables["OUTPUT_DIR"]) / "checkpoints").exists()


def test_detached_and_stopped(trainee: Caller) -> None:
    """`docker stop` waits until a checkpoint is saved."""
    name = f"detached-{trainee.uid}"
    trainee.variables |= {"DOCKER_ARGS": f"--detach --name {name}", "MAX_STEPS": "1000000"}
    output = train(trainee)
    deadline = time.monotonic() + 120
    while not (output / "metrics.jsonl").exists() or len(events(output, "step")) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    trainee.engine.docker("stop", name)
    log = (output / "train.log").read_text()
    assert "stopped by signal 15" in log
    assert [path for path in (output / "checkpoints").iterdir() if path.name.startswith("step-")]
    while trainee.engine.docker("ps", "--all", "--quiet", "--filter", f"name={name}").stdout:  # deleted soon after
        assert time.monotonic() < deadline + 60
        time.sleep(0.2)


def test_phase_1_then_phase_2(trainee: Caller) -> None:
    mlperf_log = Path(trainee.variables["OUTPUT_DIR"]) / "result_0.txt"
    trainee.variables["MLPERF_LOG"] = str(mlperf_log)
    first = train(trainee, "--eval-every-samples", "16")
    assert '"run_stop"' in mlperf_log.read_text()
    steps = events(first, "step")
    assert [step["step"] for step in steps] == list(range(1, STEPS + 1))
    assert steps[-1]["samples"] == STEPS * 8
    assert [evaluation["step"] for evaluation in events(first, "eval")] == [2, 4, 6]
    for name in ("config.json", "model.safetensors"):
        assert (first / "model_save" / name).is_file()
    summary = (first / "summary.log").read_text()
    assert summary.startswith("BERT;training phase1 throughput;fp32;")
    assert yaml.safe_load((first / "results.yaml").read_text())
    owners = {(path.stat().st_uid, path.stat().st_gid) for path in first.rglob("*")}
    assert owners == {(trainee.uid, trainee.uid)}

    log = (first / "train.log").read_text()
    assert "engine native: C++ kernels" in log
    assert "memory allocator: tcmalloc" in log
    assert f"base image: {base_label(trainee)}" in log

    # With a negligible learning rate, phase 2 ends with the weights that it started from.
    del trainee.variables["CONFIG_FILE"], trainee.variables["MLPERF_LOG"]
    trainee.variables |= {
        "SCRIPT": "run_bert_pretrain_phase2.sh",
        "CHECKPOINT_DIR": str(first / "model_save"),
        "OUTPUT_DIR": str(trainee.home / "out put 2"),
        "MAX_STEPS": "1",
        "LEARNING_RATE": "1e-12",
    }
    second = train(trainee)
    assert (second / "summary.log").read_text().startswith("BERT;training phase2 throughput;fp32;")
    before, after = (load_file(output / "model_save/model.safetensors") for output in (first, second))
    assert before.keys() == after.keys()
    for name, weights in before.items():
        np.testing.assert_allclose(after[name], weights, atol=1e-6, err_msg=name)
    assert not list((first / "model_save").glob("*.tmp"))


def base_label(caller: Caller) -> str:
    """Return the label that describes the base of the caller's image."""
    query = '{{index .Config.Labels "bert-large.base"}}'
    return caller.engine.docker("image", "inspect", "--format", query, caller.variables["IMAGE_NAME"]).stdout.strip()


def test_a_stopped_run_resumes(trainee: Caller) -> None:
    trainee.variables |= {"MAX_STEPS": "100000", "TOTAL_STEPS": "100000", "SAVE_EVERY": "100000"}
    trainee.variables["DOCKER_ARGS"] = "--health-interval 1s"
    process = trainee.start()
    metrics = Path(trainee.variables["OUTPUT_DIR"]) / "metrics.jsonl"
    wait_for_steps(metrics, 3, process)
    (container,) = trainee.engine.containers()
    wait_until_healthy(trainee.engine, container)
    trainee.engine.docker("stop", "--time", "100", container)
    output, error = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, output + error
    done = events(metrics.parent, "step")[-1]["step"]
    trainee.variables["MAX_STEPS"] = str(done + 2)
    train(trainee)
    assert [step["step"] for step in events(metrics.parent, "step")] == list(range(1, done + 3))


def wait_until_healthy(engine: Engine, container: str) -> None:
    """Wait until the engine reports a container as healthy because of a training step."""
    deadline = time.monotonic() + 60
    query = "{{.State.Health.Status}} {{range .State.Health.Log}}{{.Output}}{{end}}"
    while True:
        health = engine.docker("inspect", "--format", query, container).stdout
        if health.startswith("healthy ") and " step " in health:
            return
        assert not health.startswith("unhealthy"), health
        assert time.monotonic() < deadline, health
        time.sleep(0.5)


def wait_for_steps(metrics: Path, count: int, process: subprocess.Popen[str]) -> None:
    """Wait until a run has logged some steps."""
    deadline = time.monotonic() + 120
    while not metrics.exists() or len(metrics.read_text().splitlines()) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "no steps in time"
        time.sleep(0.1)


def test_native_is_the_same_run(trainee: Caller) -> None:
    inside = train(trainee)
    trainee.variables["OUTPUT_DIR"] = str(trainee.home / "native")
    result = subprocess.run(
        [PROJECT / "run.sh"],
        env=os.environ | trainee.variables | {"RUNTIME": "native", "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    outside = Path(trainee.variables["OUTPUT_DIR"])
    for name in ("masked_lm_loss", "next_sentence_loss", "gradient_norm"):
        assert [step[name] for step in events(outside, "step")] == pytest.approx(
            [step[name] for step in events(inside, "step")], rel=1e-4
        )


def test_two_ranks_in_one_container(trainee: Caller) -> None:
    alone = train(trainee)
    trainee.variables |= {"OUTPUT_DIR": str(trainee.home / "two"), "RANKS_PER_NODE": "2"}
    together = train(trainee)
    assert [step["masked_lm_loss"] for step in events(together, "step")] == pytest.approx(
        [step["masked_lm_loss"] for step in events(alone, "step")], rel=1e-3
    )


def test_intel_openmp_replaces_the_other(trainee: Caller, image: Image) -> None:
    """Two runtimes would have two pools of threads."""
    trainee.variables["TRAIN_SCRIPT"] = str(trainee.home / "count_threads.py")
    Path(trainee.variables["TRAIN_SCRIPT"]).write_text(COUNT_THREADS)
    trainee.own()
    counts = []
    for trainee.variables["OPENMP"] in ("pytorch", "intel"):
        result = trainee.run()
        if image is not IPEX and trainee.variables["OPENMP"] == "intel":
            assert result.returncode == 2
            assert "intel-openmp" in result.stderr
            return
        assert result.returncode == 0, result.stderr
        counts.append(result.stdout.split()[-2:])
    assert counts == [["3", "pytorch"], ["3", "intel"]]


def test_the_ipex_engine(trainee: Caller, image: Image) -> None:
    if image is not IPEX:
        pytest.skip("the image has no IPEX")
    options = trainee.engine.docker("run", "--rm", image.name, "bert-large", "pretrain", "--help").stdout
    if "ipex" not in options:
        pytest.skip("this version has no ipex engine")
    native = train(trainee)
    trainee.variables |= {"ENGINE": "ipex", "OUTPUT_DIR": str(trainee.home / "ipex")}
    ipex = train(trainee)
    assert "engine ipex" in (ipex / "train.log").read_text()
    assert [step["masked_lm_loss"] for step in events(ipex, "step")] == pytest.approx(
        [step["masked_lm_loss"] for step in events(native, "step")], rel=1e-3
    )


def test_a_wrong_setting_is_the_trainers_exit_code(trainee: Caller) -> None:
    trainee.variables["BATCH_SIZE"] = "0"
    result = trainee.run()
    assert result.returncode == 2, result.stdout + result.stderr
    assert "BATCH_SIZE is 0" in result.stderr


def test_data_is_made_in_the_container(caller: Caller) -> None:
    (caller.home / "some text").mkdir()
    (caller.home / "some text/part-00000-of-00001").write_text(TEXT)
    (caller.home / "vo cab.txt").write_text("\n".join(VOCABULARY) + "\n")
    caller.own()
    dataset = caller.home / "new shards"
    caller.variables = {
        "SCRIPT": "prepare_dataset.sh",
        "INPUT_DIR": str(caller.home / "some text"),
        "VOCAB_FILE": str(caller.home / "vo cab.txt"),
        "DATASET_DIR": str(dataset),
        "DUPE_FACTOR": "2",
        "PHASE1_FRACTION": "1",  # two articles cannot be shared between phases
    }
    result = caller.run()
    assert result.returncode == 0, result.stdout + result.stderr
    for shard in (dataset / "seq_128/part-00000-of-00001_128", dataset / "seq_512/part-00000-of-00001"):
        assert len(list(iterate_payloads(shard))) >= 4
        assert shard.stat().st_uid == caller.uid
