"""The tasks `squad`, `squad2` and `ner` with the hub's data, and their options in the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bert_large.config.options import CommandParser, add_settings
from bert_large.errors import DataError, InputError
from bert_large.finetune import ner, squad
from bert_large.finetune.ner import NerTask
from bert_large.finetune.registry import make_task
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from tests.support.word_tokenizer import word_tokenizer


def task_of(*options: str) -> Any:
    parser = CommandParser()
    parser.add_argument("--task")
    parser.add_argument("--max-seq-length", type=int)
    add_settings(parser, squad.SquadOptions)
    return make_task(parser.parse_args(options))


def test_options_are_part_of_the_run() -> None:
    task = task_of("--task", "squad2", "--doc-stride", "64", "--null-score-diff-threshold", "-1.5")
    assert task.options == {
        "doc_stride": 64, "max_query_length": 64, "n_best_size": 20, "max_answer_length": 30,
        "null_score_diff_threshold": -1.5,
    }  # fmt: skip
    assert task.unanswerable and not task_of("--task", "squad").unanswerable


@pytest.mark.parametrize("task", ["rte", "ner"])
def test_options_of_other_tasks_are_refused(task: str) -> None:
    with pytest.raises(InputError, match=f"--doc-stride.*--task {task}"):
        task_of("--task", task, "--doc-stride", "64")


CONTEXT = "Abc de. Fgh abc"


def squad_hub(answers: list[dict[str, list[Any]]]) -> DatasetDict:
    rows = Dataset.from_dict(
        {
            "id": [f"q{number}" for number in range(len(answers))],
            "title": ["t"] * len(answers),
            "context": [CONTEXT] * len(answers),
            "question": ["fgh"] * len(answers),
            "answers": answers,
        }
    )
    return DatasetDict({"train": rows, "validation": rows})


def test_squad2_from_the_hub_to_answers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Windows of 8 of the context's 12 tokens; the logits give the first gold answer, and for q1 that there is none."""
    hub = squad_hub([{"text": ["abc", "Abc"], "answer_start": [12, 0]}, {"text": [], "answer_start": []}])
    monkeypatch.setattr(squad, "load_from_hub", lambda name: {"rajpurkar/squad_v2": hub}[name])
    task = task_of("--task", "squad2", "--max-query-length", "3", "--doc-stride", "4", "--max-seq-length", "14")
    splits = task.load(None)
    tokenizer = word_tokenizer()
    train = task.encode(splits.train, tokenizer, 14, training=True)
    features = task.encode(splits.evaluation["validation"], tokenizer, 14, training=False)
    assert features["question"][:] == [0, 0, 1, 1]
    assert [len(ids) for ids in features["input_ids"]] == [14] * 4
    assert train["start_positions"][:] == [0, 10, 0, 0]
    assert train["end_positions"][:] == [0, 12, 0, 0]
    logits = np.zeros((2, 4, 14), dtype=np.float32)
    for name, of_side in zip(("start_positions", "end_positions"), logits, strict=True):
        of_side[range(4), train[name][:]] = 3
    examples = splits.evaluation["validation"]
    metrics = task.compute_metrics(examples, features, tuple(logits))
    assert (metrics["exact"], metrics["HasAns_f1"], metrics["NoAns_f1"], metrics["total"]) == (100, 100, 100, 2)
    task.write_predictions(tmp_path, "validation", examples, features, tuple(logits))
    assert json.loads((tmp_path / "predictions.json").read_text()) == {"q0": "abc", "q1": ""}
    assert json.loads((tmp_path / "null_odds.json").read_text()) == {"q0": -6.0, "q1": 6.0}


def test_wrong_rows_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = squad_hub([{"text": ["abc"], "answer_start": [4]}])
    monkeypatch.setattr(squad, "load_from_hub", lambda name: {"rajpurkar/squad": hub}[name])
    with pytest.raises(DataError, match=r"rajpurkar/squad train: .*q0"):
        task_of("--task", "squad").load(None)


def test_ner_from_the_hub_to_tags(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tags are numbers there; an entity of a type that is not in the training data cannot be found."""
    names = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
    features = Features({"tokens": [Value("string")], "ner_tags": [ClassLabel(names=names)]})

    def split(*tags: list[int]) -> Dataset:
        tokens = [["ab", "c", "d"][: len(of_sentence)] for of_sentence in tags]
        return Dataset.from_dict({"tokens": tokens, "ner_tags": list(tags)}, features=features)

    hub = DatasetDict({"train": split([1, 2, 0]), "validation": split([1, 2, 0], [0, 3]), "test": split([0])})
    monkeypatch.setattr(ner, "load_from_hub", lambda name, revision: {"eriktks/conll2003": hub}[name])
    task = NerTask()
    splits = task.load(None)
    assert list(splits.evaluation) == ["validation", "test"]
    assert task.model_settings() == {
        "num_labels": 3, "id2label": {0: "O", 1: "B-PER", 2: "I-PER"}, "label2id": {"O": 0, "B-PER": 1, "I-PER": 2},
    }  # fmt: skip
    examples = splits.evaluation["validation"]
    encoded = task.encode(examples, word_tokenizer(), 16, training=False)
    assert encoded["labels"][:] == [[-100, 1, -100, 2, 0, -100], [-100, 0, -100, -100, -100]]
    logits = np.zeros((2, 6, 3), dtype=np.float32)
    logits[0, [1, 3, 4], [1, 2, 0]] = 1  # right
    logits[1, :, 0] = 1  # all O
    metrics = task.compute_metrics(examples, encoded, logits)
    assert (metrics["precision"], metrics["recall"], metrics["LOC_recall"], metrics["accuracy"]) == (100, 50, 0, 80)
