"""What is missing or wrong ends the command with one clear line and exit code 2, before any training."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from bert_large.model.pretrained import save_model

from tests.support.models import tiny_config, tiny_model, write_config
from tests.support.records import PHASE_2_SHAPE, make_records, write_folder
from tests.support.runs import Task, options, run_here, run_process


@dataclass
class Place:
    """Where a test puts what is wrong."""

    folder: Path
    task: Task
    finished: Path

    def text(self, name: str, content: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        return path

    def model_save(self, name: str, **changes: Any) -> Path:
        save_model(self.folder / name, tiny_model(**changes), tiny_config(**changes), None)
        return self.folder / name


def vocab(size: int) -> str:
    return "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{number}" for number in range(size - 5))])


def empty_folder(place: Place) -> Path:
    (place.folder / "empty").mkdir()
    return place.folder / "empty"


def damaged_weights(place: Place) -> Path:
    folder = place.model_save("damaged")
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:1000])
    return folder


def weights_unlike_their_configuration(place: Place) -> Path:
    """A folder whose files were mixed up: the configuration is ours, the weights are wider."""
    folder = place.model_save("mixed", intermediate_size=48)
    shutil.copy(place.finished / "model_save" / "config.json", folder)
    (folder / "checksums.json").unlink()  # which would tell it too
    return folder


def long_records_in_phase_1s_folder(place: Place) -> Path:
    write_folder(place.folder / "data" / "seq_128", make_records(5), shape=PHASE_2_SHAPE)
    return place.folder / "data"


def damaged_shard(place: Place) -> Path:
    folder = write_folder(place.folder / "data", make_records(5))
    path = folder / "part-00000-of-00001"
    path.write_bytes(path.read_bytes()[:-3])
    return folder


def records_of(place: Place, **kind: Any) -> Path:
    return write_folder(place.folder / "data", make_records(5, **kind))


WRONG: dict[str, tuple[Callable[[Place], dict[str, Any]], str]] = {
    "no configuration": (
        lambda place: {"config_file": None}, r"CONFIG_FILE \(--config-file\) is not set; expected a bert_config.json"),
    "configuration is not there": (
        lambda place: {"config_file": place.folder / "none.json"}, r"model configuration .*none.json does not exist"),
    "configuration is no JSON": (
        lambda place: {"config_file": place.text("c.json", "hidden_size: 1024")}, r"c.json is not readable JSON"),
    "configuration is of something else": (
        lambda place: {"config_file": place.text("c.json", "{}")}, r"c.json lacks hidden_size, .*; is it a BERT"),
    "configuration has wrong values": (
        lambda place: {"config_file": write_config(place.folder / "c.json", num_attention_heads=5, hidden_size=33)},
        r"hidden_size 33 is no multiple of num_attention_heads 5"),
    "dataset is not there": (
        lambda place: {"dataset_dir": place.folder / "nowhere"}, r"DATASET_DIR .*nowhere does not exist"),
    "dataset is empty": (
        lambda place: {"dataset_dir": empty_folder(place)},
        r"DATASET_DIR .*empty holds no data for 128 tokens; expected seq_128"),
    "dataset has only notes": (
        lambda place: {"dataset_dir": place.text("data/README.md", "x").parent}, r"data folder .*data holds no shards"),
    "dataset is text": (
        lambda place: {"dataset_dir": place.text("data/part-0", "Some article.\n" * 9).parent},
        r"part-0: record 0 at byte 0: wrong checksum of a record header, 0x.*; not a TFRecord, or damaged"),
    "dataset is of the other phase": (
        lambda place: {"phase": 2, "dataset_dir": place.task.dataset_dir / "seq_128"},
        r"have 128 token slots, phase 2 expects 512; train them with phase 1"),
    "records do not fit their folder's phase": (
        lambda place: {"dataset_dir": long_records_in_phase_1s_folder(place)},
        r"have 512 token slots, phase 1 expects 128"),
    "a shard is damaged": (
        lambda place: {"dataset_dir": damaged_shard(place)},
        r"part-00000-of-00001: record 4 at byte \d+: .*the file is truncated"),
    "ids beyond the vocabulary": (
        lambda place: {"dataset_dir": records_of(place, vocab_size=5000)},
        r"part-00000-of-00001: record 0 at byte 0: input_ids has token id \d+, the model's vocabulary has 100"),
    "tokens beyond the positions": (
        lambda place: {"config_file": write_config(place.folder / "c.json", max_position_embeddings=30)},
        r"part-00000-of-00003: record 0 at byte 0: \d+ tokens, the model has 30 positions"),
    "evaluation data is not there": (
        lambda place: {"eval_dir": place.folder / "nowhere"}, r"data folder .*nowhere does not exist"),
    "evaluation data is empty": (
        lambda place: {"eval_dir": empty_folder(place)}, r"data folder .*empty holds no shards"),
    "vocabulary is larger": (
        lambda place: {"vocab_file": place.text("vocab.txt", vocab(101))},
        r"VOCAB_FILE .*vocab.txt has 101 tokens, the model configuration's vocab_size is 100"),
    "vocabulary is not there": (
        lambda place: {"vocab_file": place.folder / "vocab.txt"}, r"vocab.txt"),
    "checkpoint is not there": (
        lambda place: {"checkpoint_dir": place.folder / "nowhere"}, r"CHECKPOINT_DIR .*nowhere does not exist"),
    "checkpoint is empty": (
        lambda place: {"checkpoint_dir": empty_folder(place)}, r"CHECKPOINT_DIR .*empty has no config.json"),
    "checkpoint is the output folder": (
        lambda place: {"checkpoint_dir": place.finished}, r"has no config.json; give the model_save folder"),
    "checkpoint is of another shape": (
        lambda place: {"checkpoint_dir": place.model_save("other", num_hidden_layers=1)},
        r"CHECKPOINT_DIR .*other .*num_hidden_layers is 1"),
    "checkpoint is damaged": (
        lambda place: {"checkpoint_dir": damaged_weights(place)}, r"model.safetensors is damaged: found 1000 bytes"),
    "checkpoint's files are mixed": (
        lambda place: {"checkpoint_dir": weights_unlike_their_configuration(place)},
        r"intermediate.dense.weight is \[48, 32\], the model configuration makes it \[64, 32\]"),
    "output is a file": (
        lambda place: {"output_dir": place.text("out", "")}, r"OUTPUT_DIR .*out cannot be made: File exists"),
    "resumed from nothing": (
        lambda place: {"resume": place.folder / "step-1"}, r"step-1 is no checkpoint to resume from"),
    "unknown precision": (
        lambda place: {"precision": "fp8"}, r"PRECISION \(--precision\) is 'fp8', expected one of fp32, "),
    "unknown engine": (
        lambda place: {"engine": "turbo"}, r"--engine is 'turbo', expected one of auto, "),
    "fp16 on the native engine": (
        lambda place: {"engine": "native", "precision": "fp16"},
        r"--engine is 'native', which has no kernels for --precision fp16; use --engine auto or eager, or"),
    "unknown recipe": (
        lambda place: {"recipe": "nvidia"}, r"--recipe is 'nvidia', expected one of .*intel"),
    "unknown phase": (lambda place: {"phase": 3}, r"--phase is 3, expected 1 or 2"),
    "several wrong settings": (
        lambda place: {"learning_rate": 0, "beta_1": 1}, r"--learning-rate is 0.0, expected > 0; --beta-1 is 1.0"),
    "unknown optimizer": (lambda place: {"optimizer": "sgd"}, r"--optimizer is 'sgd', expected one of"),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_input(
    task: Task, finished: Path, tmp_path: Path, wrong: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The line names what was found, what was expected or what to do; no step was made."""
    arrange, expected = WRONG[wrong]
    changes = {"output_dir": tmp_path / "output", **arrange(Place(tmp_path, task, finished))}
    output_dir = changes.pop("output_dir")
    assert run_here(*task.arguments(output_dir, **changes)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(rf"bert-large pretrain: error: .*{expected}", line), line
    assert not (output_dir / "metrics.jsonl").exists()
    assert not (output_dir / "model_save").exists()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"learning_rate": 0.5}, "is of another run: optimizer.learning_rate was 0.02, is 0.5"),
        ({"max_steps": 9}, "optimizer.total_steps was 8, is 9.*keep --total-steps when you raise --max-steps"),
        ({"eval_dir": "none", "no_shuffle": True}, "shuffle was True, is False"),
        ({"resume": "never"}, "holds a run; give an empty folder"),
        ({"benchmark": True, "max_steps": 8}, "holds a run; give an empty folder"),
        ({"phase": 2}, "phase was 1, is 2"),
    ],
)
def test_another_runs_folder(
    task: Task, finished: Path, changes: dict[str, Any], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Refused by what differs, and left as it was."""
    unchanged = (path for path in finished.rglob("*") if path.is_file() and path.name not in ("train.log", ".lock"))
    before = {path: path.read_bytes() for path in unchanged}
    assert run_here(*task.arguments(finished, **changes)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(rf"bert-large pretrain: error: .*{finished}.* {expected}", line), line
    assert {path: path.read_bytes() for path in before} == before
    assert (finished / "train.log").read_text().rstrip().endswith(line.removeprefix("bert-large pretrain: "))


def test_a_damaged_checkpoint_to_resume_from(task: Task, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its weights, its moments or its state; nothing is trained from what is left of them."""
    task.run(tmp_path, max_steps=1, total_steps=8)
    rows = (tmp_path / "metrics.jsonl").read_bytes()
    capsys.readouterr()
    for name in ("model.safetensors", "optimizer.safetensors", "state.json"):
        path = tmp_path / "checkpoints" / "step-00000001" / name
        good = path.read_bytes()
        path.write_bytes(good[: len(good) // 2])
        assert run_here(*task.arguments(tmp_path)) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"{path} is damaged" in line
        path.write_bytes(good)
    assert (tmp_path / "metrics.jsonl").read_bytes() == rows
    task.run(tmp_path)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"checkpoint_dir": "nowhere"}, "CHECKPOINT_DIR nowhere does not exist"),
        ({"eval_dir": "nowhere"}, "data folder nowhere does not exist"),
        ({"precision": "fp8"}, r"PRECISION \(--precision\) is 'fp8'"),
        ({"engine": "turbo"}, "--engine is 'turbo'"),
        ({"eval_samples": 0}, "--eval-samples is 0, expected > 0"),
        ({"micro_batch_tokens": -1}, "--micro-batch-tokens is -1, expected > 0"),
    ],
)
def test_evaluate(
    task: Task, finished: Path, changes: dict[str, Any], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"checkpoint_dir": finished / "model_save", "eval_dir": task.dataset_dir / "eval", **changes}
    assert run_here("evaluate", *options(**given)) == 2
    output = capsys.readouterr()
    assert output.out == "" and re.fullmatch(rf"bert-large evaluate: error: {expected}.*\n", output.err)


def test_evaluation_data_of_a_larger_vocabulary(finished: Path, tmp_path: Path, capsys: Any) -> None:
    write_folder(tmp_path / "eval", make_records(5, vocab_size=5000))
    given = options(checkpoint_dir=finished / "model_save", eval_dir=tmp_path / "eval")
    assert run_here("evaluate", *given) == 2
    assert re.search(r"has token id \d+, the model's vocabulary has 100", capsys.readouterr().err)


def test_as_a_process(task: Task, tmp_path: Path) -> None:
    """The exit code and the line that a shell sees; options that are not given at all are argparse's to name."""
    done = run_process(*task.arguments(tmp_path / "out", config_file=None))
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert done.stdout == "" and not (tmp_path / "out").exists()
    done = run_process("pretrain", "--output-dir", str(tmp_path / "out"))
    assert done.returncode == 2 and "--dataset-dir" in done.stderr.splitlines()[-1]


def test_an_error_is_in_the_log_too(task: Task, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Once there is one: a job's standard error is often lost."""
    data = records_of(Place(tmp_path, task, tmp_path), vocab_size=5000)
    assert run_here(*task.arguments(tmp_path / "out", dataset_dir=data)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert (tmp_path / "out" / "train.log").read_text().splitlines()[-1].endswith(line.split(": ", 1)[1])


def test_a_refused_folder_can_be_used(task: Task, tmp_path: Path) -> None:
    """What was wrong about the data does not claim the folder for a run that never was."""
    data = records_of(Place(tmp_path, task, tmp_path), vocab_size=5000)
    assert run_here(*task.arguments(tmp_path / "out", dataset_dir=data)) == 2
    task.run(tmp_path / "out", max_steps=1)
    assert json.loads((tmp_path / "out" / "run.json").read_text())["seed"] == 42


def test_an_output_folder_that_checkpoints_could_not_be_read_from(task: Task, tmp_path: Path) -> None:
    """The library that reads them takes UTF-8 alone."""
    done = run_process(*task.arguments(tmp_path / "out\udcff"))
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "has bytes in its name that are no UTF-8" in line
    assert list(tmp_path.iterdir()) == []
