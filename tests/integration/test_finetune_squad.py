"""`bert-large finetune --task squad` and `squad2`, from official files to the input of their evaluation scripts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.finetune import finetuned, write_quick_model
from tests.support.runs import options, run_here

CONTEXTS = ["abc xy cab", "bca cab zz", "qq abc bb ee", "zz xy bb"]
ANSWERS = {"who": "xy", "what": "cab", "which": "bb"}
COPIES = 40


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_quick_model(tmp_path_factory.mktemp("start") / "model_save")


def paragraph(context: str, copy: int, answerable_only: bool) -> dict[str, Any]:
    questions = [
        {
            "id": f"{context}-{word}-{copy}",
            "question": f"{word}?",
            "answers": [{"text": answer, "answer_start": context.index(answer)}] if answer in context else [],
        }
        for word, answer in ANSWERS.items()
        if answer in context or not answerable_only
    ]
    return {"context": context, "qas": questions}


def write_data(folder: Path, version: str) -> Path:
    """Write both files, with the same questions; those for training are in many copies."""
    folder.mkdir()
    for name, copies in (("train", COPIES), ("dev", 1)):
        paragraphs = [paragraph(context, copy, version == "1.1") for copy in range(copies) for context in CONTEXTS]
        content = {"version": version, "data": [{"title": "t", "paragraphs": paragraphs}]}
        (folder / f"{name}-v{version}.json").write_text(json.dumps(content))
    return folder


SETTINGS = {"max_seq_length": 24, "max_query_length": 6, "doc_stride": 6, "batch_size": 16, "epochs": 3,
            "learning_rate": 3e-3, "seed": 1}  # fmt: skip


def test_squad_learns_its_questions(model: Path, tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", "1.1")
    metrics = finetuned(tmp_path / "out", task="squad", data_dir=data, checkpoint_dir=model, **SETTINGS)
    found = metrics["validation"]
    assert set(found) == {"exact_match", "f1"}
    assert found["exact_match"] > 95 and found["f1"] > 95
    predictions = json.loads((tmp_path / "out/predictions/predictions.json").read_text())
    assert predictions["abc xy cab-who-0"] == "xy"
    n_best = json.loads((tmp_path / "out/predictions/nbest_predictions.json").read_text())
    assert {question: candidates[0]["text"] for question, candidates in n_best.items()} == predictions
    assert not (tmp_path / "out/predictions/null_odds.json").exists()


@pytest.mark.slow
def test_squad2_learns_which_questions_have_no_answer(model: Path, tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", "2.0")
    metrics = finetuned(tmp_path / "out", task="squad2", data_dir=data, checkpoint_dir=model, **SETTINGS)
    found = metrics["validation"]
    assert found["HasAns_total"] + found["NoAns_total"] == found["total"] == 12
    assert min(found["f1"], found["HasAns_exact"], found["NoAns_exact"]) > 95
    predictions = json.loads((tmp_path / "out/predictions/predictions.json").read_text())
    null_odds = json.loads((tmp_path / "out/predictions/null_odds.json").read_text())
    assert predictions["zz xy bb-what-0"] == "" and predictions["zz xy bb-which-0"] == "bb"
    assert {question for question, odds in null_odds.items() if odds > 0} == {
        question for question, text in predictions.items() if not text
    }


@pytest.mark.parametrize(
    ("task", "settings", "message"),
    [
        ("squad", {"null_score_diff_threshold": 1}, "--null-score-diff-threshold"),
        ("squad", {"doc_stride": 0}, "--doc-stride is 0"),
        ("squad2", {"null_score_diff_threshold": "nan"}, "--null-score-diff-threshold is nan"),
        ("squad", {"max_seq_length": 64}, "--max-seq-length is 64"),
        ("squad2", {}, "train-v2.0.json"),
    ],
)
def test_wrong_options(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], task: str, settings: dict[str, Any], message: str
) -> None:
    data = write_data(tmp_path / "data", "1.1")
    values = {"task": task, "data_dir": data, "checkpoint_dir": model, "output_dir": tmp_path / "out", **settings}
    assert run_here("finetune", *options(**values)) == 2
    assert message in capsys.readouterr().err
