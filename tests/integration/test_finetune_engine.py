"""Fine-tuning on the native kernels and by several ranks: the same results as by the original model on one rank."""

from __future__ import annotations

import itertools
import json
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from transformers import BertConfig, BertModel

from tests.support.finetune import finetune, without_training, write_model, write_quick_model
from tests.support.glue import write_tsv
from tests.support.runs import finish, options, run_torchrun, start_torchrun

SETTINGS = {"task": "sst2", "batch_size": 4, "epochs": 3, "learning_rate": 1e-3, "max_seq_length": 16, "seed": 7}


@pytest.fixture(scope="session")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model without dropout, which each engine draws from other random numbers."""
    return write_quick_model(tmp_path_factory.mktemp("quick") / "model_save")


@pytest.fixture
def arguments(glue: Path, quick: Path) -> dict[str, Any]:
    return {"data_dir": glue, "checkpoint_dir": quick, **SETTINGS}


def ranks(count: int, output_dir: Path, **values: Any) -> subprocess.CompletedProcess[str]:
    return run_torchrun(count, "finetune", *options(output_dir=output_dir, **values))


def evaluations(output_dir: Path) -> list[float]:
    """Return the losses of all evaluations, from the log."""
    words = (output_dir / "train.log").read_text().split()
    return [float(value) for name, value in itertools.pairwise(words) if name == "eval_loss"]


def weight_difference(found: Path, expected: Path, start: Path) -> float:
    """Return the norm of the difference of two runs' weights over that of what training changed."""
    weights, others, before = (
        load_file(folder / "model.safetensors")
        for folder in (found / "seed-7" / "model_save", expected / "seed-7" / "model_save", start)
    )
    assert weights.keys() == others.keys()
    names = weights.keys() & before.keys()
    difference = sum(float((weights[name] - others[name]).square().sum()) for name in names)
    change = sum(float((others[name] - before[name]).square().sum()) for name in names)
    assert change > 0
    return (difference / change) ** 0.5


@pytest.mark.parametrize("task", ["sst2", pytest.param("stsb", marks=pytest.mark.slow)])
def test_engines_agree(task: str, arguments: dict[str, Any], quick: Path, tmp_path: Path) -> None:
    """In fp32 without dropout: the same losses and weights up to rounding, which AdamW enlarges."""
    for engine in ("native", "eager"):
        assert finetune(tmp_path / engine, **arguments | {"task": task}, engine=engine) == 0
        assert f"engine {engine}: " in (tmp_path / engine / "train.log").read_text()
    found, expected = evaluations(tmp_path / "native"), evaluations(tmp_path / "eager")
    assert len(expected) == 3 and found == pytest.approx(expected, rel=2e-3)
    assert weight_difference(tmp_path / "native", tmp_path / "eager", quick) < 0.02


def test_bf16_agrees_roughly(arguments: dict[str, Any], tmp_path: Path) -> None:
    for engine in ("native", "eager"):
        assert finetune(tmp_path / engine, **arguments, engine=engine, precision="bf16") == 0
    assert evaluations(tmp_path / "native") == pytest.approx(evaluations(tmp_path / "eager"), rel=0.1)


def test_the_saved_model_does_not_depend_on_the_engine(arguments: dict[str, Any], tmp_path: Path) -> None:
    """Its configuration and the names of its weights; and each engine predicts the same with it."""
    assert finetune(tmp_path / "out", **arguments, engine="native") == 0
    assert finetune(tmp_path / "eager", **arguments, engine="eager") == 0
    configs = [json.loads((tmp_path / name / "model_save" / "config.json").read_text()) for name in ("out", "eager")]
    assert configs[0] == configs[1]
    trained = without_training(arguments) | {"checkpoint_dir": tmp_path / "out" / "model_save", "predict_only": True}
    found = []
    for engine in ("native", "eager"):
        assert finetune(tmp_path / f"predicted-{engine}", **trained, engine=engine) == 0
        found.append((tmp_path / f"predicted-{engine}" / "predictions" / "SST-2.tsv").read_bytes())
    assert found[0] == found[1] == (tmp_path / "out" / "predictions" / "SST-2.tsv").read_bytes()


def test_a_model_without_kernels(
    arguments: dict[str, Any], quick: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """auto trains it with its own code and logs the reason; native refuses it."""
    config = BertConfig(vocab_size=78, hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
                        intermediate_size=64, hidden_act="relu")  # fmt: skip
    BertModel(config).save_pretrained(tmp_path / "relu")
    shutil.copy(quick / "vocab.txt", tmp_path / "relu")
    changed = arguments | {"checkpoint_dir": tmp_path / "relu", "epochs": 1}
    assert finetune(tmp_path / "native", **changed, engine="native") == 2
    assert "relu" in capsys.readouterr().err.lower()
    assert finetune(tmp_path / "auto", **changed) == 0
    (line,) = [line for line in (tmp_path / "auto" / "train.log").read_text().splitlines() if "engine eager" in line]
    assert "relu" in line.lower()


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["native", "eager"])
def test_two_ranks_train_as_one(engine: str, arguments: dict[str, Any], quick: Path, tmp_path: Path) -> None:
    """The batch is that of one rank, cut in two: losses and weights are the same up to rounding."""
    assert finetune(tmp_path / "one", **arguments, engine=engine) == 0
    done = ranks(2, tmp_path / "two", **arguments, engine=engine)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("validation accuracy") == 1
    assert evaluations(tmp_path / "two") == pytest.approx(evaluations(tmp_path / "one"), rel=2e-3)
    assert weight_difference(tmp_path / "two", tmp_path / "one", quick) < 0.02
    for name in ("predictions/SST-2.tsv", "model_save/config.json"):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    found, expected = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("two", "one"))
    assert found["summary"] == expected["summary"]


@pytest.mark.slow
@pytest.mark.parametrize("task", ["ner", "squad"])
def test_two_ranks_predict_as_one(task: str, arguments: dict[str, Any], tmp_path: Path) -> None:
    """Sequences of different lengths, whose logits are gathered and padded, in their order; the last batch is short."""
    data = write_other_task(task, tmp_path / "data")
    changed = arguments | {"task": task, "data_dir": data, "epochs": 1, "max_seq_length": 32}
    if task == "squad":
        changed |= {"max_query_length": 8}
    assert finetune(tmp_path / "one", **changed) == 0
    trained = without_training(changed) | {"checkpoint_dir": tmp_path / "one" / "model_save", "predict_only": True}
    assert finetune(tmp_path / "predicted", **trained) == 0
    done = ranks(2, tmp_path / "two", **trained)
    assert done.returncode == 0, done.stderr[-3000:]
    names = sorted(path.name for path in (tmp_path / "predicted" / "predictions").iterdir())
    assert names
    for name in names:
        assert (tmp_path / "two" / "predictions" / name).read_bytes() == (
            tmp_path / "predicted" / "predictions" / name
        ).read_bytes()


def write_other_task(task: str, folder: Path) -> Path:
    """Write the files of entities or of questions, in odd numbers."""
    folder.mkdir()
    for split in ("train", "dev"):
        if task == "ner":
            sentences = ["the O\n" * (number % 5) + "film B-MISC\nwas O\n" for number in range(9)]
            (folder / f"{split}.txt").write_text("\n".join(sentences))
            continue
        paragraphs = []
        for number in range(9):
            before = "the " * number + "film was "
            question = {
                "id": str(number),
                "question": "was it good",
                "answers": [{"text": "good", "answer_start": len(before)}],
            }
            paragraphs.append({"context": f"{before}good", "qas": [question]})
        content = {"version": "1.1", "data": [{"title": "films", "paragraphs": paragraphs}]}
        (folder / f"{split}-v1.1.json").write_text(json.dumps(content))
    return folder


@pytest.mark.slow
def test_ranks_must_share_a_batch(arguments: dict[str, Any], tmp_path: Path) -> None:
    done = ranks(2, tmp_path / "out", **arguments | {"batch_size": 3})
    assert done.returncode != 0
    assert done.stderr.count("batch_size is 3") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_bad_data_are_reported_once(arguments: dict[str, Any], glue: Path, tmp_path: Path) -> None:
    data = shutil.copytree(glue / "SST-2", tmp_path / "data")
    write_tsv(data / "train.tsv", ("sentence", "label"), [("fine", 0), ("wrong", 7)])
    done = ranks(2, tmp_path / "out", **arguments | {"data_dir": data})
    assert done.returncode != 0
    assert done.stderr.count("line 3") == 1


@pytest.mark.slow
def test_a_stopped_run_of_two_ranks_resumes(
    glue: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A signal to the launcher ends both ranks after the same step; with dropout, the resumed run gives the same."""
    model = write_model(tmp_path_factory.mktemp("dropout") / "model_save")
    settings = {"data_dir": glue, "checkpoint_dir": model, **SETTINGS, "epochs": 40, "save_every": 50}
    assert ranks(2, tmp_path / "whole", **settings).returncode == 0
    launcher = start_torchrun(2, "finetune", *options(output_dir=tmp_path / "out", **settings))
    assert launcher.stdout is not None
    for line in launcher.stdout:
        if " step 30/120 " in line:
            break
    launcher.send_signal(signal.SIGTERM)
    (done,) = finish([launcher])
    assert done.returncode != 0 and not (tmp_path / "out" / "results.json").exists()
    (checkpoint,) = (tmp_path / "out" / "seed-7" / "checkpoints").iterdir()
    assert 30 <= int(checkpoint.name.rpartition("-")[2]) < 120
    assert ranks(2, tmp_path / "out", **settings).returncode == 0
    found, expected = ((tmp_path / name / "model_save" / "model.safetensors").read_bytes() for name in ("out", "whole"))
    assert found == expected
