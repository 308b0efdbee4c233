"""`bert-large finetune` from end to end: every task, several seeds, stops and damage on the way, and that it learns."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from bert_large.finetune import callbacks
from bert_large.finetune import seeds as finetune_run
from bert_large.finetune.glue import GLUE_TASKS
from bert_large.finetune.seed_run import SeedRun
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DistilBertConfig, DistilBertModel, Trainer

from tests.integration.conftest import Demo
from tests.support.finetune import write_model
from tests.support.glue import write_glue, write_tsv
from tests.support.runs import PROJECT, options, run_here

# 12 training examples: 3 steps an epoch, 9 in all.
SETTINGS = {"batch_size": 4, "epochs": 3, "learning_rate": 0.01, "max_seq_length": 16, "save_every": 2}


@pytest.fixture(scope="session")
def glue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_glue(tmp_path_factory.mktemp("glue"))


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("start") / "model_save")


@pytest.fixture
def arguments(glue: Path, model: Path) -> dict[str, Any]:
    """A small run of SST-2."""
    return {"task": "sst2", "data_dir": glue, "checkpoint_dir": model, "seed": 7, **SETTINGS}


def finetune(output_dir: Path, **values: Any) -> int:
    return run_here("finetune", *options(output_dir=output_dir, **values))


def results(folder: Path) -> dict[str, Any]:
    """Return what results.json has, without times."""
    found = json.loads((folder / "results.json").read_text())
    for seed in found["seeds"]:
        assert seed.pop("train_seconds") > 0
        assert seed.pop("train_samples_per_second") > 0
    return found


def assert_same(found: Path, expected: Path) -> None:
    """Compare figures, weights and predictions of two runs, to the last bit."""
    assert results(found) == results(expected)
    weights, expected_weights = (load_file(folder / "model_save" / "model.safetensors") for folder in (found, expected))
    assert weights.keys() == expected_weights.keys()
    assert all(weights[name].equal(value) for name, value in expected_weights.items())
    for path in (expected / "predictions").iterdir():
        assert (found / "predictions" / path.name).read_bytes() == path.read_bytes()


@pytest.fixture(scope="session")
def finished(glue: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of the small run, never interrupted."""
    folder = tmp_path_factory.mktemp("finished") / "out"
    assert finetune(folder, task="sst2", data_dir=glue, checkpoint_dir=model, seed=7, **SETTINGS) == 0
    return folder


@pytest.mark.parametrize("name", GLUE_TASKS)
def test_every_task(name: str, glue: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two seeds leave their figures, the mean and the deviation; the best one's model and submission files."""
    arguments = SETTINGS | {"epochs": 1, "task": name, "data_dir": glue, "checkpoint_dir": model, "seeds": "1,2"}
    assert finetune(tmp_path / "out", **arguments) == 0
    task, found = GLUE_TASKS[name], results(tmp_path / "out")
    sets = ["validation_matched", "validation_mismatched"] if name == "mnli" else ["validation"]
    assert [list(seed["metrics"]) for seed in found["seeds"]] == [sets, sets]
    values = [seed["metrics"][sets[0]][task.main_metric] for seed in found["seeds"]]
    summary = found["summary"][sets[0]][task.main_metric]
    assert summary["mean"] == pytest.approx(sum(values) / 2)
    assert summary["standard_deviation"] == pytest.approx(abs(values[0] - values[1]) / 2**0.5)
    assert found["best_seed"] == (2 if values[1] > values[0] else 1)
    table = capsys.readouterr().out.splitlines()
    assert any(line.startswith(f"{sets[0]} {task.main_metric} ") for line in table)

    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out" / "model_save")
    classifier = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out" / "model_save").eval()
    logits = classifier(**tokenizer("the film was good", return_tensors="pt")).logits
    assert logits.shape == (1, len(task.labels) or 1)
    assert list(classifier.config.id2label.values()) == (list(task.labels.values()) or ["LABEL_0"])
    for file in task.submissions.values():
        lines = (tmp_path / "out" / "predictions" / file).read_text().splitlines()
        assert lines[0] == "index\tprediction"
        for index, line in enumerate(lines[1:]):
            number, prediction = line.split("\t")
            assert int(number) == (0 if file == "AX.tsv" else index)
            assert prediction in task.labels or (name == "stsb" and 0 <= float(prediction) <= 5)


def test_the_best_weights_are_kept(finished: Path, model: Path, glue: Path, tmp_path: Path) -> None:
    """The figures are those of the step named: training no further than its epoch gives the same predictions."""
    (seed,) = results(finished)["seeds"]
    evaluations = [
        float(line.split("eval_accuracy ")[1].split()[0])
        for line in (finished / "train.log").read_text().splitlines()
        if "eval_accuracy" in line
    ]
    assert len(evaluations) == 3
    assert seed["best_step"] == 3 * (1 + evaluations.index(max(evaluations)))
    assert seed["metrics"]["validation"]["accuracy"] == pytest.approx(max(evaluations), rel=1e-3)
    assert not (finished / "seed-7" / "checkpoints").exists()


def test_a_signal_ends_the_run_and_it_goes_on(
    arguments: dict[str, Any], finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the second epoch, between two of its steps; the first step of a resumed run draws its dropout anew."""
    step, steps = Trainer.training_step, []

    def training_step(self: Trainer, *values: Any, **words: Any) -> Any:
        steps.append(self.state.global_step)
        if len(steps) == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *values, **words)

    monkeypatch.setattr(Trainer, "training_step", training_step)
    assert finetune(tmp_path / "out", **arguments) == 128 + signal.SIGTERM
    assert not (tmp_path / "out" / "results.json").exists()
    assert finetune(tmp_path / "out", **arguments) == 0
    assert steps == list(range(9))
    assert_same(tmp_path / "out", finished)


class Killed(BaseException):
    """Stands for SIGKILL: nothing after it is done."""


@pytest.mark.parametrize("at", ["in an epoch", "in a checkpoint", "in the best weights", "before the results"])
def test_a_kill_at_any_point(
    at: str, arguments: dict[str, Any], finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is half written is not gone on from."""
    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        owner, name = {
            "in an epoch": (Trainer, "training_step"),
            "in a checkpoint": (Trainer, "_save_rng_state"),
            "in the best weights": (SeedRun, "save_best"),
            "before the results": (finetune_run, "write_json"),
        }[at]
        original, calls = getattr(owner, name), []
        # The fifth step; the third checkpoint's last file but one; the second or third epoch's weights, if they are
        # better than the first's; the second file of JSON, after run.json.
        deadly = {"in an epoch": 5, "in a checkpoint": 3, "in the best weights": 1, "before the results": 2}[at]

        def killed(*values: Any, **words: Any) -> Any:
            calls.append(at)
            if len(calls) == deadly:
                raise Killed
            return original(*values, **words)

        patched.setattr(owner, name, killed)
        with pytest.raises(Killed):
            finetune(out, **arguments)
    assert not (out / "results.json").exists()
    assert finetune(out, **arguments) == 0
    assert ("removing that checkpoint" in (out / "train.log").read_text()) == (at == "in a checkpoint")
    assert_same(out, finished)


def test_a_finished_seed_is_not_trained_again(
    arguments: dict[str, Any], finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seeds can be added to a run."""
    out = tmp_path / "out"
    assert finetune(out, **arguments) == 0
    assert_same(out, finished)
    trained, train = [], Trainer.train

    def recorded(self: Trainer, **words: Any) -> Any:
        trained.append(self.args.seed)
        return train(self, **words)

    monkeypatch.setattr(Trainer, "train", recorded)
    assert finetune(out, **arguments | {"seed": None, "seeds": "7,8"}) == 0
    assert trained == [8]
    found = results(out)["seeds"]
    assert [seed["seed"] for seed in found] == [7, 8]
    assert found[0] == results(finished)["seeds"][0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": 0.02}, "settings.learning_rate was 0.01, is 0.02"),
        ({"task": "cola"}, "task was sst2, is cola"),
        ({"max_train_samples": 11}, "settings.max_train_samples was None, is 11"),
        ({"do_lower_case": None, "no_do_lower_case": True}, "lower_case was True, is False"),
        ({"resume": "never"}, "holds a run; give an empty folder"),
    ],
)
def test_another_run_of_the_folder_is_refused(
    arguments: dict[str, Any], finished: Path, changes: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (finished / "results.json").read_bytes()
    assert finetune(finished, **arguments | changes) == 2
    assert message in capsys.readouterr().err
    assert (finished / "results.json").read_bytes() == before


def test_other_data_and_another_model_are_refused(
    arguments: dict[str, Any], finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_glue(tmp_path / "glue")
    write_tsv(data / "SST-2" / "dev.tsv", ("sentence", "label"), [("other", 1)])
    other = write_model(tmp_path / "other" / "model_save", seed=1)
    assert finetune(finished, **arguments | {"data_dir": data, "checkpoint_dir": other}) == 2
    error = capsys.readouterr().err
    assert "data.validation was" in error
    assert "model was" in error
    assert "data.train" not in error


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "snli"}, "--task 'snli' is unknown"),
        ({"epochs": 0}, "epochs is 0"),
        ({"save_every": 0}, "--save-every is 0"),
        ({"seed": "x"}, "--seeds is 'x'"),
        ({"checkpoint_dir": "/not/there"}, "CHECKPOINT_DIR /not/there does not exist"),
        ({"data_dir": "/not/there"}, "--data-dir /not/there is no folder"),
        ({"max_seq_length": 513}, "max_seq_length is 513, the model has positions for 512"),
    ],
)
def test_wrong_input_is_one_line(
    arguments: dict[str, Any],
    changes: dict[str, Any],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert finetune(tmp_path / "out", **arguments | changes) == 2
    error = capsys.readouterr().err
    assert error.startswith("bert-large finetune: error: ")
    assert message in error
    assert len(error.splitlines()) == 1


def test_a_damaged_model_is_refused(
    arguments: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_model(tmp_path / "model_save")
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    assert finetune(tmp_path / "out", **arguments | {"checkpoint_dir": folder}) == 2
    assert "model.safetensors is damaged" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.safetensors", b"no weights"),
        ("config.json", b'{"vocab_size": 100}'),
        ("config.json", b'{"vocab_size": 100, "max_position_embeddings": 512, "model_type": "none such"}'),
    ],
)
def test_a_folder_that_transformers_refuses_is_one_line(
    name: str,
    content: bytes,
    arguments: dict[str, Any],
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One without checksums, as others write it."""
    start = shutil.copytree(model, tmp_path / "model_save")
    (start / "checksums.json").unlink()
    AutoTokenizer.from_pretrained(model).save_pretrained(start)
    (start / name).write_bytes(content)
    assert finetune(tmp_path / "out", **arguments | {"checkpoint_dir": start}) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1 and f"CHECKPOINT_DIR {start}" in error


def test_a_loss_that_is_not_finite_ends_the_run(
    arguments: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found in the losses that are logged, every ten steps: an evaluation before would find it in the weights."""
    monkeypatch.setattr(SeedRun, "save_best", lambda self, model: None)
    assert finetune(tmp_path / "out", **arguments | {"learning_rate": 1e30, "epochs": 4}) == 1
    assert "seed 7: at step 10 the loss is nan" in capsys.readouterr().err
    assert not (tmp_path / "out" / "results.json").exists()


def test_the_head_of_another_task_is_made_anew(arguments: dict[str, Any], model: Path, tmp_path: Path) -> None:
    """As for RTE from a model that has learned MNLI, whose classes are three."""
    start = shutil.copytree(model, tmp_path / "mnli")
    (start / "checksums.json").unlink()
    AutoModelForSequenceClassification.from_pretrained(model, num_labels=3).save_pretrained(start)
    for task, labels in (("rte", 2), ("stsb", 1)):
        changes = {"task": task, "checkpoint_dir": start, "epochs": 1}
        assert finetune(tmp_path / task, **arguments | changes) == 0
        weights = load_file(tmp_path / task / "model_save" / "model.safetensors")
        assert weights["classifier.weight"].shape == (labels, 32)


def test_weights_that_are_not_there_are_told(
    arguments: dict[str, Any], model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Drawn at random they would be trained without a word."""
    start = shutil.copytree(model, tmp_path / "model_save")
    (start / "checksums.json").unlink()
    weights = load_file(start / "model.safetensors")
    weights["bert.encoder.layer.0.attention.self.kye.weight"] = weights.pop(
        "bert.encoder.layer.0.attention.self.key.weight"
    )
    save_file(weights, start / "model.safetensors", {"format": "pt"})
    assert finetune(tmp_path / "out", **arguments | {"checkpoint_dir": start}) == 2
    assert "has no bert.encoder.layer.0.attention.self.key.weight (1 such weights)" in capsys.readouterr().err


def test_weights_that_are_not_finite_are_no_result(
    arguments: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a run so short that no loss is logged; its figures would look like those of a bad model."""
    assert finetune(tmp_path / "out", **arguments | {"learning_rate": 1e30, "epochs": 2}) == 1
    assert "is not finite any more, so nothing is learned" in capsys.readouterr().err
    assert not (tmp_path / "out" / "seed-7" / "model_save").exists()


@pytest.mark.parametrize("name", ["run.json", "seed-7/results.json"])
def test_a_damaged_file_of_the_run_is_named(
    name: str, arguments: dict[str, Any], finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished, tmp_path / "out")
    (tmp_path / "out" / name).write_text("{")
    assert finetune(tmp_path / "out", **arguments) == 2
    assert f"{tmp_path / 'out' / name} is damaged" in capsys.readouterr().err


def test_samples_can_be_limited(arguments: dict[str, Any], tmp_path: Path) -> None:
    assert finetune(tmp_path / "out", **arguments, max_train_samples=5, max_eval_samples=4) == 0
    assert "train 5, validation 4, test 4 sequences" in (tmp_path / "out" / "train.log").read_text()
    assert results(tmp_path / "out")["seeds"][0]["steps"] == 6
    assert len((tmp_path / "out" / "predictions" / "SST-2.tsv").read_text().splitlines()) == 5


def test_the_log_grows_between_figures(
    arguments: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While steps and predictions go on, however long they take: a container's health is the age of its log."""
    monkeypatch.setattr(callbacks, "LINE_EVERY_SECONDS", 0.0)
    assert finetune(tmp_path / "out", **arguments | {"epochs": 1}) == 0
    log = (tmp_path / "out" / "train.log").read_text()
    for place in ("step 1/3 training", "step 2/3 training", "step 3/3 predicting"):
        assert f"seed 7 {place}\n" in log


def test_bf16(arguments: dict[str, Any], finished: Path, tmp_path: Path) -> None:
    """Products are rounded to bf16, so weights differ; they are fp32 all the same."""
    assert finetune(tmp_path / "out", **arguments, precision="bf16") == 0
    weights = load_file(tmp_path / "out" / "seed-7" / "model_save" / "model.safetensors")
    expected = load_file(finished / "model_save" / "model.safetensors")
    assert {value.dtype for value in weights.values()} == {value.dtype for value in expected.values()}
    assert not all(weights[name].equal(value) for name, value in expected.items())


def test_regression_in_bf16(arguments: dict[str, Any], tmp_path: Path) -> None:
    assert finetune(tmp_path / "out", **arguments | {"task": "stsb", "precision": "bf16", "epochs": 1}) == 0
    scores = (tmp_path / "out" / "predictions" / "STS-B.tsv").read_text().splitlines()[1:]
    assert all(0 <= float(line.split("\t")[1]) <= 5 for line in scores)


def test_a_distilbert_folder(arguments: dict[str, Any], model: Path, tmp_path: Path) -> None:
    """It has no segments, and no pooler."""
    folder = tmp_path / "distilled"
    DistilBertModel(DistilBertConfig(vocab_size=78, dim=32, n_layers=2, n_heads=2, hidden_dim=64)).save_pretrained(
        folder
    )
    changes = {"task": "rte", "checkpoint_dir": folder, "vocab_file": model.parent / "vocab.txt", "epochs": 1}
    assert finetune(tmp_path / "out", **arguments | changes) == 0
    assert "accuracy" in results(tmp_path / "out")["summary"]["validation"]
    config = json.loads((tmp_path / "out" / "model_save" / "config.json").read_text())
    assert config["architectures"] == ["DistilBertForSequenceClassification"]


def test_the_quickstart_script(model: Path, glue: Path, tmp_path: Path) -> None:
    variables = {
        "TASK": "WNLI", "DATASET_DIR": str(glue), "CHECKPOINT_DIR": str(model), "OUTPUT_DIR": str(tmp_path / "an out"),
        "BATCH_SIZE": "4", "EPOCHS": "1", "SEEDS": "3", "PYTHON": sys.executable, "OMP_NUM_THREADS": "1",
        "SCRIPT": "run_finetune.sh", "RUNTIME": "native",
    }  # fmt: skip
    done = subprocess.run([PROJECT / "run.sh"], env=os.environ | variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "validation accuracy" in done.stdout
    assert results(tmp_path / "an out")["best_seed"] == 3


NEUTRAL = ("the", "a", "of", "and", "value", "name", "module", "class", "string", "list", "object", "file", "in", "to")
SIDES = (("error", "false", "fails", "invalid", "not"), ("true", "returns", "valid", "new", "same"))


def write_learnable_task(folder: Path, *, train: int, dev: int) -> float:
    """Write SST-2 with sentences whose label a word decides; return the share of the commoner label in dev.tsv."""
    draw = random.Random(0)
    shares = []
    for split, count in (("train", train), ("dev", dev)):
        rows = []
        for _ in range(count):
            label = int(draw.random() < 0.6)
            words = [draw.choice(NEUTRAL) for _ in range(draw.randint(5, 15))]
            words.insert(draw.randrange(len(words) + 1), draw.choice(SIDES[label]))
            rows.append((" ".join(words), label))
        write_tsv(folder / f"{split}.tsv", ("sentence", "label"), rows)
        shares.append(sum(label for _, label in rows) / count)
    return max(shares[1], 1 - shares[1])


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_it_learns_from_the_demos_model(demo: Demo, tmp_path: Path) -> None:
    """A task that words decide, over two seeds, is all but solved."""
    majority = write_learnable_task(tmp_path / "data", train=1500, dev=300)
    settings = {"epochs": 3, "learning_rate": 3e-4, "max_seq_length": 32, "seeds": "1,2"}
    out = tmp_path / "out"
    model = demo.folder / "phase2" / "model_save"
    assert finetune(out, task="sst2", data_dir=tmp_path / "data", checkpoint_dir=model, **settings) == 0
    for seed in results(out)["seeds"]:
        assert seed["metrics"]["validation"]["accuracy"] > 0.95 > majority + 0.2
