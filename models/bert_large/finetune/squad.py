"""The tasks `squad` and `squad2`: find the answer to a question in a text (SQuAD 1.1), or that it has none (2.0)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from bert_large.errors import InputError
from bert_large.finetune.data_files import find_files
from bert_large.finetune.hub import load_from_hub
from bert_large.finetune.results import write_json
from bert_large.finetune.squad_answers import Prediction, ScoredWindow, predict
from bert_large.finetune.squad_examples import Question, from_rows, read_squad
from bert_large.finetune.squad_metrics import squad_1_scores, squad_2_scores
from bert_large.finetune.squad_windows import make_windows
from bert_large.finetune.task import Collator, Splits

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True, kw_only=True)
class SquadOptions:
    """The options of both versions, with the names and defaults of BERT's own code; lengths are in tokens."""

    doc_stride: int = 128
    """From the start of a window of a long text to that of the next."""
    max_query_length: int = 64
    """Longer questions are cut."""
    n_best_size: int = 20
    """Answers to a question in nbest_predictions.json."""
    max_answer_length: int = 30
    """Longer answers are not considered."""

    def __post_init__(self) -> None:
        wrong = [f"{name} is {value}, expected > 0" for name, value in vars(self).items() if value < 1]
        if wrong:
            raise InputError(f"wrong settings: {'; '.join(wrong)}")


@dataclass(frozen=True, kw_only=True)
class SquadTask:
    """SQuAD 1.1 or 2.0; `Task` explains the members that are not explained here."""

    name: str
    version: str
    """As the names of its files have it: train-v1.1.json, dev-v1.1.json."""
    hub_dataset: str
    squad: SquadOptions
    null_threshold: float | None = None
    """2.0: a question has no answer where "no answer" scores more than this above the best one, in nats."""
    main_metric: str = "f1"

    @property
    def defaults(self) -> Mapping[str, Any]:
        """Return BERT's own settings for BERT-large."""
        return {"max_seq_length": 384, "batch_size": 24, "learning_rate": 3e-5, "epochs": 2}

    @property
    def options(self) -> Mapping[str, Any]:
        """Return what decides the answers."""
        return vars(self.squad) | ({} if self.null_threshold is None else {"null_threshold": self.null_threshold})

    @property
    def _unanswerable(self) -> bool:
        return self.null_threshold is not None

    def load(self, data_dir: Path | None) -> Splits:
        """Read the official files, or the hub's version."""
        splits = {"train": "train", "validation": "dev"}
        if data_dir is None:
            hub = load_from_hub(self.hub_dataset)
            questions = {
                split: from_rows(f"{self.hub_dataset} {split}", hub[split], unanswerable=self._unanswerable)
                for split in splits
            }
        else:
            files = find_files(data_dir, {split: [f"{name}-v{self.version}.json"] for split, name in splits.items()})
            questions = {split: read_squad(path, unanswerable=self._unanswerable) for split, path in files.items()}
        return Splits(
            train=_to_dataset(questions["train"]),
            evaluation={"validation": _to_dataset(questions["validation"])},
            test={},
        )

    def model_class(self) -> Any:
        """Return the class of models with a start and an end logit for every token."""
        from transformers import AutoModelForQuestionAnswering

        return AutoModelForQuestionAnswering

    def model_settings(self, splits: Splits) -> dict[str, Any]:
        """Return nothing: the head is the same for all data."""
        return {}

    def encode(
        self, examples: Dataset, tokenizer: PreTrainedTokenizerFast, max_seq_length: int, *, training: bool
    ) -> Dataset:
        """Return a feature a window; with the answer's position to train, else with what turns logits into text."""

        def features_of(batch: dict[str, list[Any]], numbers: list[int]) -> dict[str, Any]:
            rows = (dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True))
            windows = list(
                make_windows(
                    map(Question.from_row, rows),
                    tokenizer,
                    max_seq_length=max_seq_length,
                    doc_stride=self.squad.doc_stride,
                    max_query_length=self.squad.max_query_length,
                )
            )
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

    def collator(self, tokenizer: PreTrainedTokenizerFast) -> Collator:
        """Return padding to the longest of a batch."""
        from transformers import DataCollatorWithPadding

        return DataCollatorWithPadding(tokenizer)

    def compute_metrics(self, examples: Dataset, features: Dataset, predictions: Any) -> dict[str, float]:
        """Return the figures of the official evaluation script, as percentages."""
        gold_answers = {row["id"]: row["answers"]["text"] for row in examples}
        answers = self._predict(examples, features, predictions)
        texts = {question: answer.text for question, answer in answers.items()}
        if self.null_threshold is None:
            return squad_1_scores(gold_answers, texts)
        null_odds = {question: answer.null_odds for question, answer in answers.items()}
        return squad_2_scores(gold_answers, texts, null_odds, self.null_threshold)

    def write_predictions(
        self, folder: Path, split: str, examples: Dataset, features: Dataset, predictions: Any
    ) -> None:
        """Write the files of BERT's own code, which the official evaluation script takes."""
        answers = self._predict(examples, features, predictions)
        threshold = self.null_threshold
        texts = {
            question: "" if threshold is not None and answer.null_odds > threshold else answer.text
            for question, answer in answers.items()
        }
        write_json(folder / "predictions.json", texts)
        n_best = {question: answer.n_best(with_no_answer=self._unanswerable) for question, answer in answers.items()}
        write_json(folder / "nbest_predictions.json", n_best)
        if self._unanswerable:
            null_odds = {question: answer.null_odds for question, answer in answers.items()}
            write_json(folder / "null_odds.json", null_odds)

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


def _scored_window(feature: dict[str, Any], start_logits: np.ndarray, end_logits: np.ndarray) -> ScoredWindow:
    offsets = np.array(feature["offsets"], dtype=np.int32).reshape(-1, 2)
    return ScoredWindow(feature["context_begin"], offsets, start_logits, end_logits)


def _to_dataset(questions: Sequence[Question]) -> Dataset:
    from datasets import Dataset, Features, Value

    text, number = Value("string"), Value("int32")
    features = Features(  # told, as answers may be none in all rows
        {"id": text, "question": text, "context": text, "answers": {"text": [text], "answer_start": [number]}}
    )
    rows = [question.to_row() for question in questions]
    return Dataset.from_dict({name: [row[name] for row in rows] for name in features}, features=features)
