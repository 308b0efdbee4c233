"""The tasks `squad` and `squad2`: find the answer to a question in a text (SQuAD 1.1), if it has one (2.0)."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bert_large.config.options import setting
from bert_large.config.training import Checked
from bert_large.finetune.data_files import find_files, load_from_hub
from bert_large.finetune.squad_examples import Question, from_rows, locate_answers, read_squad
from bert_large.finetune.squad_metrics import squad_1_scores, squad_2_scores
from bert_large.finetune.squad_windows import Prediction, ScoredWindow, make_windows, predict, require_room
from bert_large.finetune.task import Splits
from bert_large.storage.atomic import write_json

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast


HUB_DATASETS = {"1.1": "rajpurkar/squad", "2.0": "rajpurkar/squad_v2"}


def _option(default: Any, text: str, within: str = "[1, 1000000]") -> Any:
    return setting(default, text, within=within, variable="", deferred=True)


@dataclass(frozen=True, kw_only=True)
class SquadOptions(Checked):
    """Options of the SQuAD tasks, with the names and defaults of BERT's own code."""

    doc_stride: int = _option(128, "tokens between the starts of two windows of a long text")
    max_query_length: int = _option(64, "largest number of tokens in a question; longer ones are truncated")
    n_best_size: int = _option(20, "answers per question in nbest_predictions.json")
    max_answer_length: int = _option(30, "largest number of tokens in an answer; longer ones are not considered")
    null_score_diff_threshold: float = _option(
        0.0,
        "squad2: a question has no answer if that scores more than this above the best answer, in nats",
        within="(-inf, inf)",
    )


OPTIONS = tuple(option.name for option in fields(SquadOptions))
OPTIONS_OF_1 = tuple(option for option in OPTIONS if option != "null_score_diff_threshold")
"""Options that `squad` also has; all are whole numbers."""
DEFAULTS: Mapping[str, Any] = {"max_seq_length": 384, "batch_size": 24, "learning_rate": 3e-5, "epochs": 2}
"""The settings of BERT's own code for BERT-large."""


def make_task(arguments: argparse.Namespace, name: str, version: str) -> SquadTask:
    """Return the task with the options of the command; `version` is 1.1 or 2.0."""
    given = {option: value for option in OPTIONS if (value := getattr(arguments, option)) is not None}
    options = SquadOptions(**given)
    require_room(arguments.max_seq_length or DEFAULTS["max_seq_length"], options.max_query_length)
    return SquadTask(name=name, version=version, squad=options)


@dataclass(frozen=True, kw_only=True)
class SquadTask:
    """SQuAD 1.1 or 2.0; `Task` documents the members that are not documented here."""

    name: str
    version: str
    """The version in the names of its files: train-v1.1.json, dev-v1.1.json."""
    squad: SquadOptions
    defaults: Mapping[str, Any] = field(default_factory=lambda: DEFAULTS)
    main_metric: str = "f1"
    auto_class: str = "AutoModelForQuestionAnswering"
    collator_class: str = "DataCollatorWithPadding"

    @property
    def options(self) -> Mapping[str, Any]:
        """Return the options that decide the answers."""
        return vars(self.squad)

    @property
    def unanswerable(self) -> bool:
        """Whether questions may have no answer."""
        return self.version != "1.1"

    def load(self, data_dir: Path | None, *, training: bool = True) -> Splits:
        """Read the official files, or the hub's version."""
        names = {"train": "train", "validation": "dev"} if training else {"validation": "dev"}
        sources: dict[str, Path | str]
        if data_dir is None:
            name = HUB_DATASETS[self.version]
            hub = load_from_hub(name)
            sources = {split: f"{name} {split}" for split in names}
            questions = {
                split: from_rows(f"{name} {split}", hub[split], unanswerable=self.unanswerable) for split in names
            }
        else:
            files = find_files(data_dir, {split: [f"{name}-v{self.version}.json"] for split, name in names.items()})
            sources = dict(files)
            questions = {split: read_squad(path, unanswerable=self.unanswerable) for split, path in files.items()}
        train = _to_dataset(locate_answers(sources["train"], questions["train"])) if training else None
        return Splits(train=train, evaluation={"validation": _to_dataset(questions["validation"])}, test={})

    def model_settings(self) -> dict[str, Any]:
        """Return nothing: the head is the same for all data."""
        return {}

    def encode(
        self, examples: Dataset, tokenizer: PreTrainedTokenizerFast, max_seq_length: int, *, training: bool
    ) -> Dataset:
        """Return one feature per window, with the answer's position for training, else with the tokens' offsets."""
        lengths = {"doc_stride": self.squad.doc_stride, "max_query_length": self.squad.max_query_length}

        def features_of(batch: dict[str, list[Any]], numbers: list[int]) -> dict[str, Any]:
            rows = (dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True))
            questions = map(Question.from_row, rows)
            windows = list(make_windows(questions, tokenizer, max_seq_length=max_seq_length, **lengths))
            features: dict[str, Any] = {"input_ids": [window.input_ids for window in windows]}
            if "token_type_ids" in tokenizer.model_input_names:
                features["token_type_ids"] = [window.token_type_ids for window in windows]
            if training:
                features["start_positions"] = [window.answer_start for window in windows]
                features["end_positions"] = [window.answer_end for window in windows]
            else:
                features["question"] = [numbers[window.question] for window in windows]
                features["context_begin"] = [window.context_begin for window in windows]
                features["offsets"] = [window.offsets.tolist() for window in windows]
            return features

        return examples.map(features_of, batched=True, with_indices=True, remove_columns=examples.column_names)

    def compute_metrics(self, examples: Dataset, features: Dataset, predictions: Any) -> dict[str, float]:
        """Return the metrics of the official evaluation script, as percentages."""
        gold_answers = {row["id"]: row["answers"]["text"] for row in examples}
        answers = self._predict(examples, features, predictions)
        texts = {question: answer.text for question, answer in answers.items()}
        if not self.unanswerable:
            return squad_1_scores(gold_answers, texts)
        return squad_2_scores(gold_answers, texts, _null_odds(answers), self.squad.null_score_diff_threshold)

    def write_predictions(
        self, folder: Path, split: str, examples: Dataset, features: Dataset, predictions: Any
    ) -> None:
        """Write the files of BERT's own code, which the official evaluation script reads."""
        answers = self._predict(examples, features, predictions)
        threshold = self.squad.null_score_diff_threshold if self.unanswerable else math.inf
        texts = {question: "" if answer.null_odds > threshold else answer.text for question, answer in answers.items()}
        write_json(folder / "predictions.json", texts)
        n_best = {question: answer.n_best(with_no_answer=self.unanswerable) for question, answer in answers.items()}
        write_json(folder / "nbest_predictions.json", n_best)
        if self.unanswerable:
            write_json(folder / "null_odds.json", _null_odds(answers))

    def _predict(
        self, examples: Dataset, features: Dataset, predictions: tuple[np.ndarray, np.ndarray]
    ) -> dict[str, Prediction]:
        """Return the prediction for each question by its id."""
        answers = {}
        rows = zip(features, *predictions, strict=True)
        for number, of_question in groupby(rows, key=lambda row: row[0]["question"]):
            question = examples[number]
            answers[question["id"]] = predict(
                question["context"],
                [_scored_window(*row) for row in of_question],
                n_best=self.squad.n_best_size,
                max_answer_length=self.squad.max_answer_length,
            )
        return answers


def _null_odds(answers: Mapping[str, Prediction]) -> dict[str, float]:
    return {question: answer.null_odds for question, answer in answers.items()}


def _scored_window(feature: dict[str, Any], *logits: np.ndarray) -> ScoredWindow:
    return ScoredWindow(feature["context_begin"], np.array(feature["offsets"], np.int32).reshape(-1, 2), *logits)


def _to_dataset(questions: Sequence[Question]) -> Dataset:
    from datasets import Dataset, Features, Value

    text, number = Value("string"), Value("int32")
    features = Features(  # not inferred, as all rows may be without answers
        {"id": text, "question": text, "context": text, "answers": {"text": [text], "answer_start": [number]}}
    )
    rows = [question.to_row() for question in questions]
    return Dataset.from_dict({name: [row[name] for row in rows] for name in features}, features=features)
