"""BERT without next sentences, and DistilBERT: training, resuming, evaluation and export."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from bert_large.engines import available_engines
from safetensors.torch import load_file

from tests.support.models import DISTILBERT, tiny_config
from tests.support.runs import Task, assert_same_losses, eval_rows, options, run_here, step_rows

NEXT_SENTENCE = ("next_sentence_loss", "next_sentence_accuracy")


@pytest.fixture(scope="module", params=["BertForMaskedLM", "DistilBertForMaskedLM"])
def family_task(request: pytest.FixtureRequest, task: Task, tmp_path_factory: pytest.TempPathFactory) -> Task:
    """Train an architecture without a next-sentence head."""
    if request.param == "BertForMaskedLM":
        return dataclasses.replace(task, settings=task.settings | {"masked_lm_only": True})
    config_file = tmp_path_factory.mktemp("distilbert") / "config.json"
    config_file.write_text(json.dumps(tiny_config(**DISTILBERT).to_hugging_face()))
    return dataclasses.replace(task, config_file=config_file)


@pytest.fixture(scope="module")
def trained(family_task: Task, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a run on the eager engine."""
    return family_task.run(tmp_path_factory.mktemp("family") / "out", engine="eager")


def test_metrics_and_files(trained: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> None:
    """No metric or weight of next sentences exists, and the model folder names the architecture."""
    rows = [*step_rows(trained), *eval_rows(trained)]
    assert len(rows) == 8 + 3 and all(row[name] is None for row in rows for name in NEXT_SENTENCE)
    assert all(row["loss"] == row["masked_lm_loss"] for row in step_rows(trained))
    assert step_rows(trained)[-1]["masked_lm_loss"] < step_rows(trained)[0]["masked_lm_loss"]
    log = (trained / "train.log").read_text()
    assert "next_sentence" not in log and "seq_acc" not in log
    (architecture,) = json.loads((trained / "model_save" / "config.json").read_text())["architectures"]
    assert f"'{architecture}'" in log
    assert not any("pooler" in name or "seq_relationship" in name
                   for name in load_file(trained / "model_save" / "model.safetensors"))  # fmt: skip
    assert run_here("report", str(trained), "--output-file", str(trained / "report.html")) == 0
    page = (trained / "report.html").read_text()
    assert "Masked-LM loss" in page and "Next-sentence" not in page


@pytest.mark.parametrize("engine", available_engines())
def test_engines_agree_and_resume(
    family_task: Task, trained: Path, tmp_path: Path, signal_at: Any, engine: str
) -> None:
    """With dropout, and a stop in the middle."""
    signal_at(5)
    assert run_here(*family_task.arguments(tmp_path, engine=engine)) == 143
    family_task.run(tmp_path, engine=engine)
    assert "resuming after step 5" in (tmp_path / "train.log").read_text()
    assert_same_losses(tmp_path, trained)


def test_phase_2_and_evaluation(
    family_task: Task, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The model folder of phase 1 determines the architecture."""
    handed = {"phase": 2, "config_file": None, "masked_lm_only": None, "checkpoint_dir": trained / "model_save"}
    family_task.run(tmp_path, **handed, max_steps=2, eval_every_samples=8, eval_at_start="true")
    before = eval_rows(tmp_path)[0]
    last = eval_rows(trained)[-1]
    assert {name: before[name] for name in ("masked_lm_loss", *NEXT_SENTENCE)} == {
        "masked_lm_loss": pytest.approx(last["masked_lm_loss"], rel=1e-5), **dict.fromkeys(NEXT_SENTENCE)
    }  # fmt: skip
    assert eval_rows(tmp_path)[-1]["masked_lm_loss"] != before["masked_lm_loss"]
    capsys.readouterr()
    given = options(checkpoint_dir=trained / "model_save", eval_dir=family_task.dataset_dir / "eval", json=True)
    assert run_here("evaluate", *given) == 0
    metrics = json.loads(capsys.readouterr().out)
    assert metrics["masked_lm_loss"] == pytest.approx(last["masked_lm_loss"], rel=1e-5)
    assert metrics["next_sentence_loss"] is None


def test_another_architecture_is_another_run(
    task: Task, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_here(*task.arguments(trained, engine="eager")) == 2
    assert "model.architecture was " in capsys.readouterr().err
    assert run_here(*task.arguments(tmp_path, resume=trained / "checkpoints/step-00000008")) == 2
    assert "model.architecture was " in capsys.readouterr().err


def test_convert_refuses(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tensorflow", reason="needs the extra tensorflow")
    given = options(to_tf=tmp_path / "model.ckpt", checkpoint_dir=trained / "model_save")
    assert run_here("convert", *given) == 2
    assert "BERT with both pretraining heads, and no others are converted" in capsys.readouterr().err


def test_hugging_face_export(trained: Path, tmp_path: Path) -> None:
    """The card names a class that loads the model."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the"]
    (tmp_path / "vocab.txt").write_text("".join(f"{token}\n" for token in tokens))
    given = {"checkpoint_dir": trained / "model_save", "vocab_file": tmp_path / "vocab.txt"}
    assert run_here("export", *options(format="hugging-face", output_dir=tmp_path / "out", **given)) == 0
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "out" / name).read_bytes() == (trained / "model_save" / name).read_bytes()
    card = (tmp_path / "out" / "README.md").read_text()
    assert "AutoModelForMaskedLM" in card and "model(**inputs).logits" in card and "ForPreTraining" not in card


def test_a_name_and_a_cased_vocabulary(task: Task, tmp_path: Path) -> None:
    """The records' 100 tokens are a vocabulary of their own size."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"Word{number}" for number in range(95))]
    (tmp_path / "vocab.txt").write_text("".join(f"{token}\n" for token in tokens))
    named = {"config_file": "bert-tiny", "vocab_file": tmp_path / "vocab.txt"}
    task.run(tmp_path / "out", **named, max_steps=1, eval_dir="none")
    assert "configuration bert-tiny with vocab_size 100" in (tmp_path / "out" / "train.log").read_text()
    config = json.loads((tmp_path / "out/model_save/config.json").read_text())
    assert (config["vocab_size"], config["hidden_size"], config["num_hidden_layers"]) == (100, 128, 2)
    tokenizer = json.loads((tmp_path / "out/model_save/tokenizer_config.json").read_text())
    assert tokenizer["do_lower_case"] is False
