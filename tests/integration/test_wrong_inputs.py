"""Missing and wrong inputs end the command with one line and exit code 2, before any training."""

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
    """Folder for the wrong inputs of a test."""

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
    """Return a folder with the configuration of one model and the wider weights of another."""
    folder = place.model_save("mixed", intermediate_size=48)
    shutil.copy(place.finished / "model_save" / "config.json", folder)
    (folder / "checksums.json").unlink()  # which would show it too
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
    "no configuration": (lambda place: {"config_file": None}, r"CONFIG_FILE \(--config-file\)"),
    "configuration is missing": (lambda place: {"config_file": place.folder / "none.json"}, r"none\.json"),
    "configuration is not JSON": (
        lambda place: {"config_file": place.text("c.json", "hidden_size: 1024")}, r"c\.json .*JSON"),
    "configuration of something else": (
        lambda place: {"config_file": place.text("c.json", "{}")}, r"c\.json lacks hidden_size"),
    "configuration has wrong values": (
        lambda place: {"config_file": write_config(place.folder / "c.json", num_attention_heads=5, hidden_size=33)},
        r"c\.json: hidden_size is 33.* 5"),
    "configuration has a value of the wrong type": (
        lambda place: {"config_file": write_config(place.folder / "c.json", layer_norm_eps="1e-12")},
        r"c\.json: layer_norm_eps is '1e-12'"),
    "configuration of an untied decoder": (
        lambda place: {"config_file": write_config(place.folder / "c.json", tie_word_embeddings=False)},
        r"c\.json: tie_word_embeddings is false"),
    "dataset is missing": (
        lambda place: {"dataset_dir": place.folder / "nowhere"}, r"DATASET_DIR .*nowhere does not exist"),
    "dataset is empty": (lambda place: {"dataset_dir": empty_folder(place)}, r"DATASET_DIR .*empty .*seq_128"),
    "dataset has only notes": (
        lambda place: {"dataset_dir": place.text("data/README.md", "x").parent}, r".*data holds no shards"),
    "dataset is text": (
        lambda place: {"dataset_dir": place.text("data/part-0", "Some article.\n" * 9).parent},
        r"part-0: record 0 at byte 0"),
    "dataset of the other phase": (
        lambda place: {"phase": 2, "dataset_dir": place.task.dataset_dir / "seq_128"}, r"128 token slots.*512"),
    "records do not fit their folder's phase": (
        lambda place: {"dataset_dir": long_records_in_phase_1s_folder(place)}, r"512 token slots.* 128"),
    "a shard is damaged": (
        lambda place: {"dataset_dir": damaged_shard(place)}, r"part-00000-of-00001: record 4 at byte \d+"),
    "ids beyond the vocabulary": (
        lambda place: {"dataset_dir": records_of(place, vocab_size=5000)},
        r"part-00000-of-00001: record 0 at byte 0: input_ids .* 100"),
    "tokens beyond the positions": (
        lambda place: {"config_file": write_config(place.folder / "c.json", max_position_embeddings=30)},
        r"part-00000-of-00003: record 0 at byte 0: \d+ tokens.* 30"),
    "evaluation data is missing": (lambda place: {"eval_dir": place.folder / "nowhere"}, r"nowhere does not exist"),
    "evaluation data is empty": (lambda place: {"eval_dir": empty_folder(place)}, r"empty holds no shards"),
    "vocabulary is larger": (
        lambda place: {"vocab_file": place.text("vocab.txt", vocab(101))}, r"VOCAB_FILE .*vocab\.txt .*101.*100"),
    "vocabulary is missing": (lambda place: {"vocab_file": place.folder / "vocab.txt"}, r"vocab\.txt"),
    "checkpoint is missing": (
        lambda place: {"checkpoint_dir": place.folder / "nowhere"}, r"CHECKPOINT_DIR .*nowhere does not exist"),
    "checkpoint is empty in phase 2": (
        lambda place: {"phase": 2, "checkpoint_dir": empty_folder(place)}, r"CHECKPOINT_DIR .*empty .*config\.json"),
    "checkpoint is the output folder": (
        lambda place: {"checkpoint_dir": place.finished}, r"CHECKPOINT_DIR .*config\.json.*model_save"),
    "checkpoint of another shape": (
        lambda place: {"checkpoint_dir": place.model_save("other", num_hidden_layers=1)},
        r"CHECKPOINT_DIR .*other .*num_hidden_layers is 1"),
    "checkpoint is damaged": (
        lambda place: {"checkpoint_dir": damaged_weights(place)}, r"model\.safetensors is damaged"),
    "checkpoint's files are mixed": (
        lambda place: {"checkpoint_dir": weights_unlike_their_configuration(place)},
        r"intermediate\.dense\.weight is \[48, 32\].*\[64, 32\]"),
    "output is a file": (lambda place: {"output_dir": place.text("out", "")}, r"folder .*out "),
    "resumed from nothing": (lambda place: {"resume": place.folder / "step-1"}, r"step-1"),
    "fp16 on the native engine": (
        lambda place: {"engine": "native", "precision": "fp16"}, r"--engine is 'native'.*--precision fp16"),
    "several wrong settings": (
        lambda place: {"learning_rate": "inf", "beta_1": 1, "phase": 3, "engine": "turbo"},
        r"--phase is 3.*--engine is 'turbo'.*--learning-rate is inf.*--beta-1 is 1"),
    "a schedule that ends before the run": (
        lambda place: {"max_steps": 9, "total_steps": 8}, r"--max-steps is 9.*--total-steps 8"),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_input(
    task: Task, finished: Path, tmp_path: Path, wrong: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The line names the file or setting and the value; no step was run."""
    arrange, expected = WRONG[wrong]
    changes = {"output_dir": tmp_path / "output", **arrange(Place(tmp_path, task, finished))}
    output_dir = changes.pop("output_dir")
    assert run_here(*task.arguments(output_dir, **changes)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("bert-large pretrain: error: ") and re.search(expected, line), line
    assert not (output_dir / "metrics.jsonl").exists()
    assert not (output_dir / "model_save").exists()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"output_dir": "data/seq_128"}, "data/seq_128"),
        ({"output_dir": "data/seq_512"}, "data/seq_512"),
        ({"output_dir": "data/eval"}, "data/eval"),
        ({"output_dir": "data/out/../eval"}, "data/out/../eval"),
        ({"output_dir": "shards", "dataset_dir": "shards"}, "shards"),
        ({"output_dir": "shards", "eval_dir": "shards"}, "shards"),
        ({"output_dir": "text", "text_dir": "text"}, "text"),
        ({"output_dir": "text/out", "text_dir": "text"}, "text/out"),
        ({"text_dir": "out/records"}, "out/records"),
        ({"text_dir": "out/records/text"}, "out/records/text"),
        ({"index_dir": "shards", "dataset_dir": "shards"}, "shards"),
        ({"index_dir": "text/index", "text_dir": "text"}, "text/index"),
        ({"mlperf_log": "shards/result", "dataset_dir": "shards", "eval_dir": "data/eval"}, "shards"),
    ],
)
def test_an_output_folder_among_the_inputs(
    task: Task, tmp_path: Path, changes: dict[str, str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is written: a log would be read as text or as a shard, by this run or the next one."""
    shutil.copytree(task.dataset_dir, tmp_path / "data")
    shutil.copytree(task.dataset_dir / "seq_128", tmp_path / "shards")
    for folder in ("text", "out/records/text", "data/out"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "a.txt").write_text("Some text.\n")
    before = sorted(tmp_path.rglob("*"))
    given: dict[str, Any] = {name: tmp_path / folder for name, folder in ({"output_dir": "out"} | changes).items()}
    given.setdefault("dataset_dir", None if "text_dir" in changes else tmp_path / "data")
    assert run_here(*task.arguments(given.pop("output_dir"), **given)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{tmp_path / named} " in line
    assert sorted(tmp_path.rglob("*")) == before


def test_an_output_folder_beside_the_shards(task: Task, tmp_path: Path) -> None:
    """Folders inside a folder of shards are not read."""
    shutil.copytree(task.dataset_dir / "seq_128", tmp_path / "shards")
    task.run(tmp_path / "shards" / "out", dataset_dir=tmp_path / "shards", max_steps=1)
    task.run(tmp_path / "out", dataset_dir=tmp_path / "shards", max_steps=1)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"learning_rate": 0.5}, "optimizer.learning_rate.* 0.02.* 0.5"),
        ({"max_steps": 9}, "optimizer.total_steps.* 8.* 9"),
        ({"eval_dir": "none", "no_shuffle": True}, "shuffle"),
        ({"resume": "never"}, "holds a run"),
        ({"benchmark": True, "max_steps": 8}, "holds a run"),
        ({"phase": 2}, "phase.* 1.* 2"),
    ],
)
def test_another_runs_folder(
    task: Task, finished: Path, changes: dict[str, Any], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The settings that differ are named, and the folder stays as it was."""
    unchanged = (path for path in finished.rglob("*") if path.is_file() and path.name not in ("train.log", ".lock"))
    before = {path: path.read_bytes() for path in unchanged}
    assert run_here(*task.arguments(finished, **changes)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(rf"bert-large pretrain: error: .*{finished}.* {expected}", line), line
    assert {path: path.read_bytes() for path in before} == before
    assert (finished / "train.log").read_text().rstrip().endswith(line.removeprefix("bert-large pretrain: "))


def test_a_damaged_checkpoint_to_resume_from(task: Task, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whether its weights, its moments or its state are damaged, nothing is trained from the rest."""
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
        ({"eval_dir": "nowhere"}, "nowhere does not exist"),
        ({"precision": "fp8"}, "--precision is 'fp8'"),
        (
            {"eval_samples": 0, "micro_batch_tokens": -1, "engine": "turbo"},
            "--engine is 'turbo'.*--micro-batch-tokens is -1.*--eval-samples is 0",
        ),
        ({"rank_timeout": "nan"}, "--rank-timeout is nan"),
    ],
)
def test_evaluate(
    task: Task, finished: Path, changes: dict[str, Any], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"checkpoint_dir": finished / "model_save", "eval_dir": task.dataset_dir / "eval", **changes}
    assert run_here("evaluate", *options(**given)) == 2
    output = capsys.readouterr()
    assert output.out == "" and re.fullmatch(rf"bert-large evaluate: error: .*{expected}.*\n", output.err)


def test_evaluation_data_of_a_larger_vocabulary(finished: Path, tmp_path: Path, capsys: Any) -> None:
    write_folder(tmp_path / "eval", make_records(5, vocab_size=5000))
    given = options(checkpoint_dir=finished / "model_save", eval_dir=tmp_path / "eval")
    assert run_here("evaluate", *given) == 2
    assert re.search(r"has token id \d+, the model's vocabulary has 100", capsys.readouterr().err)


def test_phase_1_with_an_empty_checkpoint_folder(task: Task, tmp_path: Path) -> None:
    """It starts from new weights, and the log has the folder."""
    empty = tmp_path / "phase 1 checkpoint"
    empty.mkdir()
    task.run(tmp_path / "out", checkpoint_dir=empty, max_steps=1)
    log = (tmp_path / "out" / "train.log").read_text()
    assert f"CHECKPOINT_DIR {empty} is empty" in log


def test_as_a_process(task: Task, tmp_path: Path) -> None:
    """The exit code and the line on standard error."""
    done = run_process(*task.arguments(tmp_path / "out", config_file=None))
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert done.stdout == "" and not (tmp_path / "out").exists()
    done = run_process("pretrain", "--output-dir", str(tmp_path / "out"))
    assert done.returncode == 2 and "--dataset-dir" in done.stderr.splitlines()[-1]


def test_an_error_is_in_the_log_too(task: Task, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A job's standard error is often lost."""
    data = records_of(Place(tmp_path, task, tmp_path), vocab_size=5000)
    assert run_here(*task.arguments(tmp_path / "out", dataset_dir=data)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert (tmp_path / "out" / "train.log").read_text().splitlines()[-1].endswith(line.split(": ", 1)[1])


def test_a_refused_folder_can_be_used(task: Task, tmp_path: Path) -> None:
    """An error in the data does not claim the folder for a run that never started."""
    data = records_of(Place(tmp_path, task, tmp_path), vocab_size=5000)
    assert run_here(*task.arguments(tmp_path / "out", dataset_dir=data)) == 2
    task.run(tmp_path / "out", max_steps=1)
    assert json.loads((tmp_path / "out" / "run.json").read_text())["seed"] == 42


def test_an_output_folder_that_checkpoints_could_not_be_read_from(task: Task, tmp_path: Path) -> None:
    """The library that reads checkpoints takes only UTF-8 names."""
    done = run_process(*task.arguments(tmp_path / "out\udcff"))
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "UTF-8" in line and "out" in line
    assert list(tmp_path.iterdir()) == []
