"""`bert-large finetune` from end to end: tasks, seeds, signals and kills, resuming, and wrong inputs."""

from __future__ import annotations

import json
import os
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
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer

from tests.support.finetune import FINETUNE_SETTINGS, finetune, without_training, write_model
from tests.support.glue import write_glue, write_tsv
from tests.support.runs import PROJECT


def results(folder: Path) -> dict[str, Any]:
    """Return the content of results.json without times."""
    found = json.loads((folder / "results.json").read_text())
    for seed in found["seeds"]:
        assert seed.pop("train_seconds") > 0
        assert seed.pop("train_samples_per_second") > 0
    return found


def assert_same(found: Path, expected: Path) -> None:
    """Compare metrics, weights and predictions of two runs, to the last bit."""
    assert results(found) == results(expected)
    weights, expected_weights = (load_file(folder / "model_save" / "model.safetensors") for folder in (found, expected))
    assert weights.keys() == expected_weights.keys()
    assert all(weights[name].equal(value) for name, value in expected_weights.items())
    for path in (expected / "predictions").iterdir():
        assert (found / "predictions" / path.name).read_bytes() == path.read_bytes()


@pytest.fixture(scope="session")
def finished(glue: Path, tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of the small run without interruption."""
    folder = tmp_path_factory.mktemp("finished") / "out"
    assert finetune(folder, data_dir=glue, checkpoint_dir=tiny_bert, **FINETUNE_SETTINGS) == 0
    return folder


# One task of a sentence, one of pairs with two metrics and one regression protect a change; the others are alike.
@pytest.mark.parametrize(
    "name", [name if name in ("mrpc", "stsb") else pytest.param(name, marks=pytest.mark.slow) for name in GLUE_TASKS]
)
def test_every_task(name: str, arguments: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two seeds give metrics, mean and deviation, and the model and submission files of the better one."""
    assert finetune(tmp_path / "out", **arguments | {"epochs": 1, "task": name, "seed": None, "seeds": "1,2"}) == 0
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
    for file in task.predictions.values():
        lines = (tmp_path / "out" / "predictions" / file).read_text().splitlines()
        assert lines[0] == "index\tprediction"
        for index, line in enumerate(lines[1:]):
            number, prediction = line.split("\t")
            assert int(number) == (0 if file == "AX.tsv" else index)
            assert prediction in task.labels or (name == "stsb" and 0 <= float(prediction) <= 5)


def test_the_best_weights_are_kept(finished: Path) -> None:
    """The metrics are those of the best of three evaluations, and so is the step."""
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


def test_a_signal_stops_the_run_and_it_resumes(
    arguments: dict[str, Any], finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signal arrives in the second epoch, between two steps; no step is trained twice."""
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
    """Stands for SIGKILL: nothing runs after it."""


@pytest.mark.parametrize(
    "at",
    [
        "in a checkpoint",
        *(
            pytest.param(at, marks=pytest.mark.slow)
            for at in ("in an epoch", "in the best weights", "before the results")
        ),
    ],
)
def test_a_kill_at_any_point(
    at: str, arguments: dict[str, Any], finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No half-written file is resumed from, and the result is that of an uninterrupted run."""
    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        owner, name = {
            "in an epoch": (Trainer, "training_step"),
            "in a checkpoint": (Trainer, "_save_rng_state"),
            "in the best weights": (SeedRun, "save_best"),
            "before the results": (finetune_run, "write_json"),
        }[at]
        original, calls = getattr(owner, name), []
        # The fifth step; the last but one file of the third checkpoint; the weights of a second or third epoch that is
        # better than the first; the second JSON file, after run.json.
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
    assert ("deleting that checkpoint" in (out / "train.log").read_text()) == (at == "in a checkpoint")
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
    ("changes", "named"),
    [
        ({"learning_rate": 0.02}, ("settings.learning_rate", "0.01", "0.02")),
        ({"task": "cola"}, ("sst2", "cola")),
        ({"max_train_samples": 11}, ("settings.max_train_samples", "11")),
        ({"do_lower_case": None, "no_do_lower_case": True}, ("lower_case", "true", "false")),
        ({"resume": "never"}, ()),
    ],
)
def test_another_run_in_the_folder_is_refused(
    arguments: dict[str, Any],
    finished: Path,
    changes: dict[str, Any],
    named: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = (finished / "results.json").read_bytes()
    assert finetune(finished, **arguments | changes) == 2
    error = capsys.readouterr().err
    assert all(text in error for text in (str(finished), *named))
    assert (finished / "results.json").read_bytes() == before


def test_other_data_and_another_model_are_refused(
    arguments: dict[str, Any], finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_glue(tmp_path / "glue")
    write_tsv(data / "SST-2" / "dev.tsv", ("sentence", "label"), [("other", 1)])
    other = write_model(tmp_path / "other" / "model_save", seed=1)
    assert finetune(finished, **arguments | {"data_dir": data, "checkpoint_dir": other}) == 2
    error = capsys.readouterr().err
    assert "validation split" in error and "CHECKPOINT_DIR" in error and "train split" not in error


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"task": "snli"}, "--task 'snli'"),
        ({"epochs": 0}, "epochs is 0"),
        ({"save_every": 0}, "--save-every is 0"),
        ({"seed": "x"}, "--seeds is 'x'"),
        ({"checkpoint_dir": "/not/there"}, "CHECKPOINT_DIR /not/there"),
        ({"data_dir": "/not/there"}, "--data-dir /not/there"),
        ({"max_seq_length": 513}, "max_seq_length is 513"),
    ],
)
def test_wrong_input_is_one_line(
    arguments: dict[str, Any],
    changes: dict[str, Any],
    named: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert finetune(tmp_path / "out", **arguments | changes) == 2
    error = capsys.readouterr().err
    assert error.startswith("bert-large finetune: error: ")
    assert named in error
    assert len(error.splitlines()) == 1


def test_a_loss_that_is_not_finite_ends_the_run(
    arguments: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is found in the losses that are logged every ten steps; an evaluation before would find it in the weights."""
    monkeypatch.setattr(SeedRun, "save_best", lambda self, model: None)
    assert finetune(tmp_path / "out", **arguments | {"learning_rate": 1e30, "epochs": 4}) == 1
    error = capsys.readouterr().err
    assert "seed 7" in error and "step 10" in error and "nan" in error
    assert not (tmp_path / "out" / "results.json").exists()


def test_weights_that_are_not_finite_are_no_result(
    arguments: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a run so short that no loss is logged; its metrics would look like those of a bad model."""
    assert finetune(tmp_path / "out", **arguments | {"learning_rate": 1e30, "epochs": 2}) == 1
    assert "seed 7: bert." in capsys.readouterr().err
    assert not (tmp_path / "out" / "seed-7" / "model_save").exists()


@pytest.mark.parametrize("name", ["run.json", "seed-7/results.json"])
def test_a_damaged_file_of_the_run_is_named(
    name: str, arguments: dict[str, Any], finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished, tmp_path / "out")
    (tmp_path / "out" / name).write_text("{")
    assert finetune(tmp_path / "out", **arguments) == 2
    assert str(tmp_path / "out" / name) in capsys.readouterr().err


def test_samples_can_be_limited(arguments: dict[str, Any], tmp_path: Path) -> None:
    assert finetune(tmp_path / "out", **arguments, max_train_samples=5, max_eval_samples=4) == 0
    assert "train 5, validation 4, test 4 sequences" in (tmp_path / "out" / "train.log").read_text()
    assert results(tmp_path / "out")["seeds"][0]["steps"] == 6
    assert len((tmp_path / "out" / "predictions" / "SST-2.tsv").read_text().splitlines()) == 5


def test_the_log_grows_between_metrics(
    arguments: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """During steps and predictions, however long they take: a container's health check is the age of its log."""
    monkeypatch.setattr(callbacks, "LINE_EVERY_SECONDS", 0.0)
    assert finetune(tmp_path / "out", **arguments | {"epochs": 1}) == 0
    log = (tmp_path / "out" / "train.log").read_text()
    for place in ("step 1/3 training", "step 2/3 training", "step 3/3 predicting"):
        assert f"seed 7 {place}\n" in log


def test_bf16(arguments: dict[str, Any], finished: Path, tmp_path: Path) -> None:
    """Products are rounded to bf16, so that weights differ from fp32's; they are float32 all the same."""
    assert finetune(tmp_path / "out", **arguments, precision="bf16") == 0
    weights = load_file(tmp_path / "out" / "seed-7" / "model_save" / "model.safetensors")
    expected = load_file(finished / "model_save" / "model.safetensors")
    assert {value.dtype for value in weights.values()} == {value.dtype for value in expected.values()}
    assert not all(weights[name].equal(value) for name, value in expected.items())


def test_regression_in_bf16(arguments: dict[str, Any], tmp_path: Path) -> None:
    assert finetune(tmp_path / "out", **arguments | {"task": "stsb", "precision": "bf16", "epochs": 1}) == 0
    scores = (tmp_path / "out" / "predictions" / "STS-B.tsv").read_text().splitlines()[1:]
    assert all(0 <= float(line.split("\t")[1]) <= 5 for line in scores)


def test_own_classes_and_predictions_alone(
    arguments: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three classes; then the fine-tuned model predicts a file without labels, and one with them."""
    rows = [(f"the film number {number}", ("good", "bad", "very bad")[number % 3]) for number in range(12)]
    for name in ("train", "dev"):
        write_tsv(tmp_path / "data" / f"{name}.tsv", ("sentence", "label"), rows)
    own = arguments | {"task": "classification", "data_dir": tmp_path / "data", "epochs": "1.0"}
    assert finetune(tmp_path / "out", **own) == 0
    assert set(results(tmp_path / "out")["summary"]["validation"]) == {"accuracy", "macro_f1"}
    write_tsv(tmp_path / "new" / "test.tsv", ("sentence",), [(text,) for text, _ in rows])
    places = {"checkpoint_dir": tmp_path / "out" / "model_save", "data_dir": tmp_path / "new"}
    trained = without_training(own) | places
    assert finetune(tmp_path / "predicted", **trained, predict_only=True) == 0
    expected = (tmp_path / "out" / "predictions" / "dev.tsv").read_text()
    assert (tmp_path / "predicted" / "predictions" / "test.tsv").read_text() == expected
    assert {line.split("\t")[1] for line in expected.splitlines()[1:]} <= {"good", "bad", "very bad"}

    shutil.copy(tmp_path / "data" / "dev.tsv", tmp_path / "new" / "dev.tsv")
    assert finetune(tmp_path / "predicted", **trained, predict_only=True) == 0
    metrics = json.loads((tmp_path / "predicted" / "results.json").read_text())["metrics"]["validation"]
    assert metrics == results(tmp_path / "out")["seeds"][0]["metrics"]["validation"]
    # Neither into the folder of a run, nor with a model without this head or with other labels.
    assert finetune(tmp_path / "out", **trained, predict_only=True) == 2
    for other in ({"checkpoint_dir": arguments["checkpoint_dir"]}, {"task": "rte"}):
        assert finetune(tmp_path / "no", **trained | other, predict_only=True) == 2
    assert "very bad" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.slow
def test_the_quickstart_script(tiny_bert: Path, glue: Path, tmp_path: Path) -> None:
    variables = {
        "SCRIPT": "run_finetune.sh", "RUNTIME": "native", "TASK": "WNLI", "DATASET_DIR": str(glue),
        "CHECKPOINT_DIR": str(tiny_bert), "OUTPUT_DIR": str(tmp_path / "an out"), "BATCH_SIZE": "4", "EPOCHS": "1",
        "SEEDS": "3", "PYTHON": sys.executable, "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    done = subprocess.run([PROJECT / "run.sh"], env=os.environ | variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "validation accuracy" in done.stdout
    assert results(tmp_path / "an out")["best_seed"] == 3
