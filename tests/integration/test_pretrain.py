"""`bert-large pretrain` from start to end: what it leaves, and what must not change what it computes."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from bert_large.data.formats.tfrecord import iterate_payloads
from bert_large.engines import precision as precision_module
from bert_large.train.checkpoint import list_checkpoints, read_state
from safetensors.torch import load_file
from tensorboardX.proto.event_pb2 import Event

from tests.support.records import make_records, write_folder, write_hdf5_shard, write_shard
from tests.support.runs import (
    PROCESS_TIMEOUT_SECONDS,
    Task,
    eval_rows,
    process_environment,
    run_here,
    run_process,
    step_rows,
    without_timings,
)

FILES = [".lock", "checkpoints", "data_index", "ended.json", "metrics.jsonl", "model_save", "results.yaml", "run.json",
         "summary.log", "tensorboard", "train.log"]  # fmt: skip


def test_what_a_run_leaves(finished: Path) -> None:
    """The outputs contract: all files, a row for each step with the promised figures, evaluations, checkpoints."""
    assert sorted(path.name for path in finished.iterdir()) == FILES
    rows = step_rows(finished)
    assert [row["step"] for row in rows] == list(range(1, 9))
    assert [row["samples"] for row in rows] == [8 * step for step in range(1, 9)]
    promised = {"step", "samples", "masked_lm_loss", "next_sentence_loss", "masked_lm_accuracy", "learning_rate",
                "gradient_norm", "sequences_per_second", "tokens_per_second", "seconds"}  # fmt: skip
    assert all(promised <= set(row) for row in rows)
    assert [(row["step"], row["eval_samples"]) for row in eval_rows(finished)] == [(3, 12), (6, 12), (8, 12)]
    assert [path.name for path in list_checkpoints(finished / "checkpoints")] == ["step-00000008"]
    assert sorted(path.name for path in (finished / "model_save").iterdir()) == [
        "checksums.json", "config.json", "model.safetensors"
    ]  # fmt: skip


def test_training_learns(finished: Path) -> None:
    """The rate changes as scheduled, the weights with it, and the loss goes down."""
    rows = step_rows(finished)
    expected = [0.0, 0.01, *(0.02 * (1 - step / 8) for step in range(2, 8))]
    assert [row["learning_rate"] for row in rows] == pytest.approx(expected)
    assert rows[-1]["masked_lm_loss"] < rows[0]["masked_lm_loss"] - 0.02


def test_summary_files(finished: Path) -> None:
    """All figures are of the same run: the log's line, summary.log and results.yaml say the same."""
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


def test_log_tells_what_was_run(finished: Path) -> None:
    """Versions, engine and why, precision, data, model and all settings, every step, and why it ended."""
    log = (finished / "train.log").read_text()
    for said in (
        "torch 2.", "1 rank, 1 threads", "engine native: ", "precision fp32: ", "training data: 50 records in 3 shards",
        "evaluation data: 12 records in 1 shards", "hidden_act='gelu_pytorch_tanh'",
        "settings from option: global_batch_size 8, ", "learning_rate 0.02", "settings from recipe intel: ", "seed 42",
        "starting from random weights, seed 42", "training ended: all 8 steps done", "model saved in",
    ):  # fmt: skip
        assert said in log, said
    lines = re.findall(r"step (\d)/8 loss .* lm_acc \S+ seq_acc \S+ .* \S+ sentence/s", log)
    assert lines == [str(step) for step in range(1, 9)]


def test_tensorboard_has_the_metrics(finished: Path) -> None:
    """The same losses under the same steps, of training and of evaluation."""
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
    """Bit for bit, from the same seed; decoding in another process changes nothing either."""
    again = task.run(tmp_path, data_workers=1)
    assert without_timings(step_rows(again)) == without_timings(step_rows(finished))
    assert without_timings(eval_rows(again)) == without_timings(eval_rows(finished))
    for name in ("model_save/model.safetensors", "checkpoints/step-00000008/optimizer.safetensors"):
        assert (again / name).read_bytes() == (finished / name).read_bytes(), name


def test_the_seed_matters(task: Task, finished: Path, tmp_path: Path) -> None:
    assert (
        step_rows(task.run(tmp_path, seed=43, max_steps=1, total_steps=8))[0]["loss"] != step_rows(finished)[0]["loss"]
    )


def test_phases_hand_over(task: Task, finished: Path, tmp_path: Path) -> None:
    """Phase 2 starts from phase 1's `model_save`, without a configuration file, on its own records."""
    shutil.copytree(finished / "model_save", tmp_path / "model_save")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{number}" for number in range(95))]
    (tmp_path / "model_save" / "vocab.txt").write_text("\n".join(words) + "\n")
    handed = {"phase": 2, "config_file": None, "checkpoint_dir": tmp_path / "model_save"}
    output = task.run(tmp_path / "out", **handed, eval_at_start="true", max_steps=2)
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


def test_hdf5_trains_alike(task: Task, tmp_path: Path) -> None:
    """The same records in NVIDIA's format give the same losses, bit for bit."""
    records = make_records(30)
    write_shard(tmp_path / "a" / "part-0", records)
    write_hdf5_shard(tmp_path / "b" / "hdf5_seq_128" / "wiki_training_0.hdf5", records)
    one, other = (
        task.run(tmp_path / f"{name} out", dataset_dir=tmp_path / name, eval_dir="none", max_steps=3) for name in "ab"
    )
    assert without_timings(step_rows(one)) == without_timings(step_rows(other))


def test_micro_batches_do_not_change_the_run(task: Task, tmp_path: Path) -> None:
    """512 and 4096 tokens, dropout on, 32 sequences a step of about 1,700 tokens: four micro-batches, and one.

    Relative tolerance 2e-6 over eight steps; the worst seen is 1.5e-7.
    """
    runs = [task.run(tmp_path / str(tokens), micro_batch_tokens=tokens, global_batch_size=32) for tokens in (512, 4096)]
    for name in ("masked_lm_loss", "next_sentence_loss", "gradient_norm"):
        few, many = ([row[name] for row in step_rows(run)] for run in runs)
        assert few == pytest.approx(many, rel=2e-6), name


def test_file_order(task: Task, tmp_path: Path) -> None:
    """Without shuffling the first step trains on the first records of the first file: its loss says so."""
    records = make_records(16)
    for name, chosen in (("whole", records), ("first", records[:8])):
        write_folder(tmp_path / name, chosen)
    one, other = (
        task.run(tmp_path / f"{name} out", dataset_dir=tmp_path / name, no_shuffle=True, eval_dir="none", max_steps=1)
        for name in ("whole", "first")
    )
    assert without_timings(step_rows(one)) == without_timings(step_rows(other))


def test_adamw_trains(task: Task, finished: Path, tmp_path: Path) -> None:
    """Resumed as well: its step count is restored."""
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
    """Losses over eight steps, dropout on: bf16's are within 0.03% of fp32's at worst; saved weights are fp32.

    fp16 has three bits more, so an eighth of bf16's tolerance is its own; 0.003% is the worst seen.
    """
    output = task.run(tmp_path, precision=precision)
    for name in ("masked_lm_loss", "next_sentence_loss"):
        low, full = ([row[name] for row in step_rows(run)] for run in (output, finished))
        assert low == pytest.approx(full, rel=tolerance), name
        assert precision == "bf32" or low != full
    saved = load_file(output / "model_save" / "model.safetensors")
    assert {str(tensor.dtype) for tensor in saved.values()} == {"torch.float32"}


@pytest.mark.parametrize(("flags", "warned"), [(["avx512f"], True), (["avx512f", "amx_bf16"], False)])
def test_emulated_bf16_is_warned_of(
    task: Task, tmp_path: Path, flags: list[str], warned: bool, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """On standard output and in the log, only where the CPU lacks the instructions."""
    monkeypatch.setattr(precision_module, "read_cpu_flags", lambda: frozenset(flags))
    task.run(tmp_path, precision="bf16", max_steps=1)
    for text in (capsys.readouterr().out, (tmp_path / "train.log").read_text()):
        assert ("warning: this CPU has none of the bf16 instructions" in text) is warned


def test_benchmark(task: Task, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Throughput as Intel's package told it; nothing is evaluated, saved or claimed: a run can follow in the folder."""
    task.run(tmp_path, benchmark=True, max_steps=12)
    printed = re.findall(r"Throughput: (\d+\.\d{3}) sentence/s$", capsys.readouterr().out, flags=re.MULTILINE)
    assert len(printed) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".lock", "data_index", "metrics.jsonl", "results.yaml", "summary.log", "tensorboard", "train.log",
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


def test_a_loss_that_is_not_finite_ends_the_run(task: Task, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 1 and a reason; the checkpoint before stays, no model is left that would look trained."""
    arguments = task.arguments(tmp_path, learning_rate=1e30, warmup_steps=0, save_every=1, eval_dir="none")
    assert run_here(*arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("bert-large pretrain: error: step ") and "lower --learning-rate" in line
    assert line.removeprefix("bert-large pretrain: ") in (tmp_path / "train.log").read_text()
    assert not (tmp_path / "model_save").exists()
    first, *bad = step_rows(tmp_path)
    assert math.isfinite(first["loss"])
    assert [row["loss"] for row in bad] == [None] * 4
    assert [read_state(path)[0].step for path in list_checkpoints(tmp_path / "checkpoints")] == [1]


def test_target_ends_the_run(easy_task: Task, tmp_path: Path) -> None:
    """At the first evaluation that reaches it."""
    output = easy_task.run(tmp_path)
    accuracies = [row["masked_lm_accuracy"] for row in eval_rows(output)]
    assert len(accuracies) == len(step_rows(output)) < 60
    assert accuracies[-1] >= 0.9 and max(accuracies[:-1]) < 0.9
    assert "reaches the target 0.9" in (output / "train.log").read_text()
    assert (output / "model_save").is_dir()


def test_evaluate_command(task: Task, finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The figures that training told last, as a line or as JSON, of all records or the first ones."""
    arguments = [
        "evaluate",
        "--checkpoint-dir",
        str(finished / "model_save"),
        "--eval-dir",
        str(task.dataset_dir / "eval"),
    ]
    assert run_here(*arguments, "--json") == 0
    figures = json.loads(capsys.readouterr().out)
    last = eval_rows(finished)[-1]
    for name in ("masked_lm_accuracy", "next_sentence_accuracy", "most_frequent_token_accuracy"):
        assert figures[name] == last[name]
    for name in ("masked_lm_loss", "next_sentence_loss"):
        assert figures[name] == pytest.approx(last[name], rel=1e-6)
    assert run_here(*arguments, "--eval-samples", "5", "--precision", "bf32") == 0
    assert " on 5 samples" in capsys.readouterr().out


@pytest.mark.slow
def test_damage_found_while_training_ends_the_run(task: Task, tmp_path: Path) -> None:
    """In a reading process: the trainer tells the file and the byte, and exits; it does not wait for ever."""
    data = tmp_path / "data" / "part-0"
    write_shard(data, make_records(64))
    settings = {"dataset_dir": data.parent, "total_steps": 8, "no_shuffle": True}
    task.run(tmp_path / "out", **settings, max_steps=1)
    stat, content = data.stat(), bytearray(data.read_bytes())
    content[-5] ^= 1  # in the last record, which the index knows as good
    data.write_bytes(content)
    os.utime(data, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    done = run_process(*task.arguments(tmp_path / "out", **settings, data_workers=1))
    assert done.returncode == 2
    found = r"record \d+ at byte \d+: wrong checksum of a record .*\n"
    assert re.fullmatch(rf"bert-large pretrain: error: {data}: {found}", done.stderr)
    assert [row["step"] for row in step_rows(tmp_path / "out")] == list(range(1, 8))


@pytest.mark.slow
def test_a_defect_ends_the_run(task: Task, tmp_path: Path) -> None:
    """An unforeseen error while another process reads ahead: its traceback and exit code 1, at once."""
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
