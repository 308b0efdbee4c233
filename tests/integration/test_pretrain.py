"""`bert-large pretrain` from start to end: its outputs, and settings that must not change its results."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from bert_large.data.formats.tfrecord import iterate_payloads
from bert_large.engines import precision as precision_module
from bert_large.train.checkpoint import check_intact, list_checkpoints
from safetensors.torch import load_file
from tensorboardX.proto.event_pb2 import Event

from tests.support.records import make_records, write_folder, write_hdf5_shard, write_shard
from tests.support.runs import (
    PROCESS_TIMEOUT_SECONDS,
    Task,
    eval_rows,
    options,
    process_environment,
    run_here,
    run_process,
    step_rows,
    without_timings,
)

FILES = [".lock", "checkpoints", "ended.json", "metrics.jsonl", "model_save", "results.yaml", "run.json",
         "summary.log", "tensorboard", "train.log"]  # fmt: skip


def test_outputs(finished: Path) -> None:
    """All documented files, a row per step with the documented metrics, evaluations and checkpoints."""
    assert sorted(path.name for path in finished.iterdir()) == FILES
    rows = step_rows(finished)
    assert [row["step"] for row in rows] == list(range(1, 9))
    assert [row["samples"] for row in rows] == [8 * step for step in range(1, 9)]
    documented = {"step", "samples", "masked_lm_loss", "next_sentence_loss", "masked_lm_accuracy", "learning_rate",
                "gradient_norm", "sequences_per_second", "tokens_per_second", "seconds"}  # fmt: skip
    assert all(documented <= set(row) for row in rows)
    assert [(row["step"], row["eval_samples"]) for row in eval_rows(finished)] == [(3, 12), (6, 12), (8, 12)]
    assert [path.name for path in list_checkpoints(finished / "checkpoints")] == ["step-00000008"]
    assert sorted(path.name for path in (finished / "model_save").iterdir()) == [
        "checksums.json", "config.json", "model.safetensors"
    ]  # fmt: skip


def test_training_learns(finished: Path) -> None:
    """The rate follows its schedule, and the loss decreases."""
    rows = step_rows(finished)
    expected = [0.0, 0.01, *(0.02 * (1 - step / 8) for step in range(2, 8))]
    assert [row["learning_rate"] for row in rows] == pytest.approx(expected)
    assert rows[-1]["masked_lm_loss"] < rows[0]["masked_lm_loss"] - 0.02


def test_summary_files(finished: Path) -> None:
    """The log, summary.log and results.yaml have the same values."""
    (line,) = (finished / "summary.log").read_text().splitlines()
    throughput = line.rsplit(";", 1)[1]
    assert line == f"BERT;training phase1 throughput;fp32; 8;{throughput}"
    assert f"Throughput: {throughput} sentence/s" in (finished / "train.log").read_text()
    results = yaml.safe_load((finished / "results.yaml").read_text())["results"]
    values = {entry["key"]: entry["value"] for entry in results}
    assert values["throughput"] == float(throughput)
    assert values["throughput"] * values["latency"] == pytest.approx(8, rel=1e-3)
    assert values["accuracy"] == pytest.approx(eval_rows(finished)[-1]["masked_lm_accuracy"], abs=1e-6)
    rows = step_rows(finished)
    assert values["throughput"] == pytest.approx(64 / sum(row["seconds"] for row in rows), rel=1e-3)


def test_the_log_describes_the_run(finished: Path) -> None:
    """Versions, engine, precision, data, model and all settings, every step, and the reason of the end."""
    log = (finished / "train.log").read_text()
    for text in (
        "torch 2.", "1 rank, 1 threads", "engine native: ", "precision fp32: ", "training data: 50 records in 3 shards",
        "evaluation data: 12 records in 1 shards", "hidden_act='gelu_pytorch_tanh'",
        "settings from option: global_batch_size 8, ", "learning_rate 0.02", "settings from recipe intel: ", "seed 42",
        "starting from random weights, seed 42", "training ended: all 8 steps done", "model saved in",
    ):  # fmt: skip
        assert text in log, text
    lines = re.findall(r"step (\d)/8 loss .* lm_acc \S+ seq_acc \S+ .* \S+ sentence/s", log)
    assert lines == [str(step) for step in range(1, 9)]


def test_tensorboard_has_the_metrics(finished: Path) -> None:
    """Training and evaluation metrics are recorded under the same steps."""
    found: dict[tuple[str, int], float] = {}
    for path in (finished / "tensorboard").iterdir():
        for _, payload in iterate_payloads(path):
            event = Event.FromString(payload)
            found |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
    for group, rows in (("train", step_rows(finished)), ("eval", eval_rows(finished))):
        for row in rows:
            for name in ("masked_lm_loss", "next_sentence_loss", "masked_lm_accuracy"):
                assert found[f"{group}/{name}", row["step"]] == pytest.approx(row[name], rel=1e-6)


def test_a_repeated_run_is_the_same(task: Task, finished: Path, tmp_path: Path) -> None:
    """Bit for bit, with the same seed, also with a data worker."""
    again = task.run(tmp_path, data_workers=1)
    assert without_timings(step_rows(again)) == without_timings(step_rows(finished))
    assert without_timings(eval_rows(again)) == without_timings(eval_rows(finished))
    for name in ("model_save/model.safetensors", "checkpoints/step-00000008/optimizer.safetensors"):
        assert (again / name).read_bytes() == (finished / name).read_bytes(), name


def test_the_seed_matters(task: Task, finished: Path, tmp_path: Path) -> None:
    assert (
        step_rows(task.run(tmp_path, seed=43, max_steps=1, total_steps=8))[0]["loss"] != step_rows(finished)[0]["loss"]
    )


def test_phase_2_starts_from_phase_1(task: Task, finished: Path, tmp_path: Path) -> None:
    """From its `model_save`, without a configuration file, on the records of phase 2."""
    shutil.copytree(finished / "model_save", tmp_path / "model_save")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{number}" for number in range(95))]
    (tmp_path / "model_save" / "vocab.txt").write_text("\n".join(words) + "\n")
    given = {"phase": 2, "config_file": None, "checkpoint_dir": tmp_path / "model_save"}
    output = task.run(tmp_path / "out", **given, eval_at_start="true", max_steps=2)
    assert "starting from the weights of" in (output / "train.log").read_text()
    before = eval_rows(output)[0]
    assert before["step"] == before["samples"] == 0
    names = ("masked_lm_loss", "next_sentence_loss", "masked_lm_accuracy", "next_sentence_accuracy")
    assert [before[name] for name in names] == [eval_rows(finished)[-1][name] for name in names]
    saved = output / "model_save"
    assert sorted(path.name for path in saved.iterdir()) == [
        "checksums.json", "config.json", "model.safetensors", "tokenizer_config.json", "vocab.txt",
    ]  # fmt: skip
    assert json.loads((saved / "config.json").read_text())["hidden_size"] == 32
    old, new = (load_file(folder / "model.safetensors") for folder in (finished / "model_save", saved))
    assert not old["bert.pooler.dense.weight"].equal(new["bert.pooler.dense.weight"])
    assert (output / "summary.log").read_text().startswith("BERT;training phase2 throughput;fp32; 8;")


def test_hdf5_gives_the_same_result(task: Task, tmp_path: Path) -> None:
    """The same records in NVIDIA's format give the same losses, bit for bit."""
    records = make_records(30)
    write_shard(tmp_path / "a" / "part-0", records)
    write_hdf5_shard(tmp_path / "b" / "hdf5_seq_128" / "wiki_training_0.hdf5", records)
    one, other = (
        task.run(tmp_path / f"{name} out", dataset_dir=tmp_path / name, eval_dir="none", max_steps=3) for name in "ab"
    )
    assert without_timings(step_rows(one)) == without_timings(step_rows(other))


def test_micro_batches_do_not_change_the_run(task: Task, tmp_path: Path) -> None:
    """512 and 4096 tokens, with dropout and 32 sequences (about 1,700 tokens) per step: four micro-batches, and one.

    The relative tolerance over eight steps is 2e-6; the worst difference seen is 1.5e-7.
    """
    runs = [task.run(tmp_path / str(tokens), micro_batch_tokens=tokens, global_batch_size=32) for tokens in (512, 4096)]
    for name in ("masked_lm_loss", "next_sentence_loss", "gradient_norm"):
        few, many = ([row[name] for row in step_rows(run)] for run in runs)
        assert few == pytest.approx(many, rel=2e-6), name


def test_file_order(task: Task, tmp_path: Path) -> None:
    """Without shuffling, the first step trains on the first records of the first file, as its loss shows."""
    records = make_records(16)
    for name, chosen in (("whole", records), ("first", records[:8])):
        write_folder(tmp_path / name, chosen)
    one, other = (
        task.run(tmp_path / f"{name} out", dataset_dir=tmp_path / name, no_shuffle=True, eval_dir="none", max_steps=1)
        for name in ("whole", "first")
    )
    assert without_timings(step_rows(one)) == without_timings(step_rows(other))


def test_adamw_trains(task: Task, finished: Path, tmp_path: Path) -> None:
    """Also when resumed, as its step count is restored."""
    whole = task.run(tmp_path / "whole", optimizer="adamw", learning_rate=0.003)
    parts = task.run(tmp_path / "parts", optimizer="adamw", learning_rate=0.003, max_steps=5, total_steps=8)
    task.run(parts, optimizer="adamw", learning_rate=0.003)
    assert step_rows(whole)[-1]["masked_lm_loss"] < step_rows(whole)[0]["masked_lm_loss"]
    assert step_rows(whole)[-1]["loss"] != step_rows(finished)[-1]["loss"]
    assert without_timings(step_rows(parts)) == without_timings(step_rows(whole))


@pytest.mark.parametrize(("precision", "tolerance"), [("bf16", 2e-3), ("bf32", 2e-3), ("fp16", 2.5e-4)])
def test_low_precision_tracks_fp32(
    task: Task, finished: Path, tmp_path: Path, precision: str, tolerance: float
) -> None:
    """Losses over eight steps with dropout; bf16 differs from fp32 by 0.03% at worst. Saved weights are fp32.

    fp16 has three more bits, so its tolerance is an eighth of bf16's; the worst difference seen is 0.003%.
    """
    output = task.run(tmp_path, precision=precision)
    for name in ("masked_lm_loss", "next_sentence_loss"):
        low, full = ([row[name] for row in step_rows(run)] for run in (output, finished))
        assert low == pytest.approx(full, rel=tolerance), name
        assert precision == "bf32" or low != full
    saved = load_file(output / "model_save" / "model.safetensors")
    assert {str(tensor.dtype) for tensor in saved.values()} == {"torch.float32"}


@pytest.mark.parametrize(("flags", "warned"), [(["avx512f"], True), (["avx512f", "amx_bf16"], False)])
def test_emulated_bf16_causes_a_warning(
    task: Task, tmp_path: Path, flags: list[str], warned: bool, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """On standard output and in the log, if the CPU lacks the instructions."""
    monkeypatch.setattr(precision_module, "read_cpu_flags", lambda: frozenset(flags))
    task.run(tmp_path, precision="bf16", max_steps=1)
    for text in (capsys.readouterr().out, (tmp_path / "train.log").read_text()):
        assert ("warning: this CPU" in text) is warned


def test_benchmark(task: Task, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Throughput as Intel's package prints it. Nothing is evaluated or saved, and a run can follow in the folder."""
    task.run(tmp_path, benchmark=True, max_steps=12)
    printed = re.findall(r"Throughput: (\d+\.\d{3}) sentence/s$", capsys.readouterr().out, flags=re.MULTILINE)
    assert len(printed) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".lock", "metrics.jsonl", "results.yaml", "summary.log", "tensorboard", "train.log",
    ]  # fmt: skip
    assert (tmp_path / "summary.log").read_text() == f"BERT;training phase1 throughput;fp32; 8;{printed[0]}\n"
    timed = [row["seconds"] for row in step_rows(tmp_path)][10:]
    assert float(printed[0]) == pytest.approx(16 / sum(timed), rel=1e-4)
    assert eval_rows(tmp_path) == []
    task.run(tmp_path, max_steps=1)
    assert len(step_rows(tmp_path)) == 1 and (tmp_path / "model_save").is_dir()


def test_benchmark_is_60_steps(task: Task, tmp_path: Path) -> None:
    task.run(tmp_path, benchmark=True, max_steps=None)
    assert len(step_rows(tmp_path)) == 60


@pytest.mark.parametrize(("save_every", "reason", "bad_steps"), [(1, "the model after step 1: ", 0), (60, "step ", 5)])
def test_a_model_that_diverges_ends_the_run(
    task: Task, tmp_path: Path, capsys: pytest.CaptureFixture[str], save_every: int, reason: str, bad_steps: int
) -> None:
    """Exit code 1 and a reason, at the first save or after too many losses that are not finite; nothing is saved."""
    arguments = task.arguments(tmp_path, learning_rate=1e30, warmup_steps=0, save_every=save_every, eval_dir="none")
    assert run_here(*arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"bert-large pretrain: error: {reason}") and "--learning-rate" in line
    assert line.removeprefix("bert-large pretrain: ") in (tmp_path / "train.log").read_text()
    first, *bad = step_rows(tmp_path)
    assert math.isfinite(first["loss"])
    assert [row["loss"] for row in bad] == [None] * len(bad) and len(bad) >= bad_steps - 1
    assert not (tmp_path / "model_save").exists() and list_checkpoints(tmp_path / "checkpoints") == []


def test_target_ends_the_run(easy_task: Task, tmp_path: Path) -> None:
    """At the first evaluation that reaches it."""
    output = easy_task.run(tmp_path)
    accuracies = [row["masked_lm_accuracy"] for row in eval_rows(output)]
    assert len(accuracies) == len(step_rows(output)) < 60
    assert accuracies[-1] >= 0.9 and max(accuracies[:-1]) < 0.9
    assert "reaches the target 0.9" in (output / "train.log").read_text()
    assert (output / "model_save").is_dir()


def test_evaluate_command(task: Task, finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The metrics of training's last evaluation, as a line or as JSON, of all records or the first ones."""
    arguments = [
        "evaluate",
        "--checkpoint-dir",
        str(finished / "model_save"),
        "--eval-dir",
        str(task.dataset_dir / "eval"),
    ]
    assert run_here(*arguments, "--json") == 0
    metrics = json.loads(capsys.readouterr().out)
    last = eval_rows(finished)[-1]
    for name in ("masked_lm_accuracy", "next_sentence_accuracy", "most_frequent_token_accuracy"):
        assert metrics[name] == last[name]
    for name in ("masked_lm_loss", "next_sentence_loss"):
        assert metrics[name] == pytest.approx(last[name], rel=1e-6)
    assert run_here(*arguments, "--eval-samples", "5", "--precision", "bf32") == 0
    assert " on 5 samples" in capsys.readouterr().out


@pytest.mark.slow
def test_damage_found_while_training_ends_the_run(task: Task, tmp_path: Path) -> None:
    """In a data worker: the trainer names the file and the byte, and exits instead of waiting forever."""
    data = tmp_path / "data" / "part-0"
    write_shard(data, make_records(64))
    settings = {"dataset_dir": data.parent, "total_steps": 8, "no_shuffle": True}
    task.run(tmp_path / "out", **settings, max_steps=1)
    stat, content = data.stat(), bytearray(data.read_bytes())
    content[-5] ^= 1  # in the last record, which the index lists as good
    data.write_bytes(content)
    os.utime(data, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    done = run_process(*task.arguments(tmp_path / "out", **settings, data_workers=1))
    assert done.returncode == 2
    assert re.fullmatch(rf"bert-large pretrain: error: {data}: record \d+ at byte \d+: .*\n", done.stderr)
    assert [row["step"] for row in step_rows(tmp_path / "out")] == list(range(1, 8))


@pytest.mark.slow
def test_a_defect_ends_the_run(task: Task, tmp_path: Path) -> None:
    """An unexpected error while a data worker reads ahead gives a traceback and exit code 1 at once."""
    program = f"""
import sys
from bert_large.cli import main
from bert_large.train.step import StepRunner
if __name__ == "__main__":
    StepRunner.run = lambda *arguments: 1 / 0
    sys.exit(main({task.arguments(tmp_path / "out", data_workers=1)!r}))
"""
    (tmp_path / "program.py").write_text(program)
    done: Any = subprocess.run(
        [sys.executable, str(tmp_path / "program.py")], env=process_environment(), capture_output=True, text=True,
        timeout=PROCESS_TIMEOUT_SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.rstrip().endswith("ZeroDivisionError: division by zero")


@pytest.mark.parametrize("redirection", ["2>{err} | head -c 100 >/dev/null", ">/dev/full 2>&1", ">&- 2>&- <&-"])
def test_losing_the_standard_streams_does_not_end_a_run(task: Task, tmp_path: Path, redirection: str) -> None:
    """A closed pipe, a full disk, and streams that were closed before the start; the log file has every line."""
    words = [sys.executable, "-m", "bert_large", *task.arguments(tmp_path / "out", eval_dir="none")]
    script = f"set -o pipefail; {shlex.join(words)} {redirection.format(err=tmp_path / 'err')}"
    done = subprocess.run(
        ["bash", "-c", script], env=process_environment(), timeout=PROCESS_TIMEOUT_SECONDS, check=False
    )
    assert done.returncode == 0
    log = (tmp_path / "out" / "train.log").read_text()
    assert re.findall(r" step (\d)/8 ", log) == [str(step) for step in range(1, 9)] and "model saved in" in log
    check_intact(tmp_path / "out" / "checkpoints" / "step-00000008")


@pytest.mark.parametrize(("stdout", "code"), [("/dev/full", 1), ("/dev/null", 0)])
def test_results_that_cannot_be_printed_are_an_error(task: Task, finished: Path, stdout: str, code: int) -> None:
    """Unlike a log, they are in no file."""
    words = options(checkpoint_dir=finished / "model_save", eval_dir=task.dataset_dir / "eval", json=True)
    with Path(stdout).open("w") as file:
        done = subprocess.run(
            [sys.executable, "-m", "bert_large", "evaluate", *words], env=process_environment(), stdout=file,
            stderr=subprocess.PIPE, text=True, timeout=PROCESS_TIMEOUT_SECONDS, check=False,
        )  # fmt: skip
    assert done.returncode == code
    assert len(done.stderr.splitlines()) == code
