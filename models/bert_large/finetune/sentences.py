"""Classification of sentences and of pairs of sentences, and regression on them: GLUE's tasks and a user's own."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bert_large.errors import DataError
from bert_large.finetune.data_files import find_files, list_folder, load_from_hub
from bert_large.finetune.metrics import accuracy
from bert_large.finetune.rows import Row, read_rows
from bert_large.finetune.task import Splits
from bert_large.storage.atomic import write_atomically

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast

HUB_DATASET = "nyu-mll/glue"
PAIR = ("sentence1", "sentence2")
FIRST, SECOND, LABEL, INDEX = "first", "second", "label", "index"
"""Columns of examples: the sentence or the pair; the label's id or the score; what a submission calls the row."""
_HIGHEST_SCORE = 5.0
Columns = dict[str, list[Any]]


@dataclass(frozen=True, kw_only=True)
class SentenceFile:
    """The file of one split."""

    split: str
    names: tuple[str, ...]
    """Paths that it may have, relative to the task's folder."""
    texts: tuple[str, ...]
    """Columns of the sentences."""
    label: str | None = None
    """Column of the label. If None, the split is to be predicted."""
    index: str | None = None
    """Column of the row's number in submissions. If None, rows are counted from 0."""
    header: tuple[str, ...] | None = None
    """Columns of a file that does not name them itself."""
    skip_short: bool = False
    """Skip rows that lack fields."""
    optional: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that the file must have."""
        return (*self.texts, *(name for name in (self.label, self.index) if name is not None))


@dataclass(frozen=True, kw_only=True)
class SentenceTask:
    """One task; `Task` documents the members that are not documented here."""

    name: str
    files: tuple[SentenceFile, ...]
    labels: Mapping[str, str]
    """Label in files and predictions → its name in the model, in the order of ids. If empty, scores from 0 to 5."""
    predictions: Mapping[str, str]
    """Split → file for its predictions, for GLUE's test splits as its server expects it."""
    metric: Callable[[np.ndarray, np.ndarray], dict[str, float]] = accuracy
    main_metric: str = "accuracy"
    folder: str = ""
    """The task's folder in GLUE's layout, where the files may be instead."""
    hub_texts: tuple[str, ...] = PAIR
    """Columns of the sentences in the hub's version, which has the same label ids."""
    read: Callable[[SentenceTask, Path, tuple[SentenceFile, ...]], dict[str, Columns]] | None = None
    """Reader of a task that has other files too; None: `read_splits`."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    auto_class: str = "AutoModelForSequenceClassification"
    collator_class: str = "DataCollatorWithPadding"
    options: Mapping[str, Any] = field(default_factory=dict)

    def load(self, data_dir: Path | None, *, training: bool = True) -> Splits:
        """Read the task's files, or the hub's version."""
        from datasets import Dataset

        if data_dir is None:
            columns = self._load_hub()
        else:
            list_folder(data_dir)
            folder = data_dir / self.folder if (data_dir / self.folder).is_dir() else data_dir
            files = self.files if training else tuple(replace(file, optional=True) for file in self.files)
            columns = (self.read or read_splits)(self, folder, files)
        splits = {name: Dataset.from_dict(values) for name, values in columns.items()}
        return Splits(
            train=splits.pop("train", None),
            evaluation={name: split for name, split in splits.items() if name.startswith("validation")},
            test={name: split for name, split in splits.items() if not name.startswith("validation")},
        )

    def _load_hub(self) -> dict[str, Columns]:
        splits = dict(load_from_hub(HUB_DATASET, self.name))
        if "ax" in self.predictions:
            splits["ax"] = load_from_hub(HUB_DATASET, "ax")["test"]
        columns = dict(zip((FIRST, SECOND), self.hub_texts, strict=False)) | {INDEX: "idx"}
        return {
            name: {
                ours: split[theirs][:]
                for ours, theirs in (columns if name in self.predictions else columns | {LABEL: "label"}).items()
            }
            for name, split in splits.items()
        }

    def read_columns(self, path: Path, file: SentenceFile, rows: Iterable[Row] | None = None) -> Columns:
        """Return the columns of one file, or of some of its rows; raise `DataError` if there is none."""
        rows = read_rows(path, file.columns, header=file.header, skip_short=file.skip_short) if rows is None else rows
        names = (FIRST, SECOND)[: len(file.texts)]
        columns: Columns = {name: [] for name in (*names, *([LABEL] if file.label else []), INDEX)}
        for number, row in enumerate(rows):
            for name, column in zip(names, file.texts, strict=True):
                columns[name].append(row.fields[column])
            if file.label is not None:
                columns[LABEL].append(self._parse_label(row, file.label))
            columns[INDEX].append(number if file.index is None else _parse_index(row, file.index))
        if not columns[INDEX]:
            raise DataError(f"{path}: found no row, expected at least one example")
        return columns

    def _parse_label(self, row: Row, column: str) -> int | float:
        text = row.fields[column]
        if self.labels:
            if text not in self.labels:
                raise row.error(f"{column} {text!r}", f"one of {', '.join(self.labels)}")
            return list(self.labels).index(text)
        try:
            score = float(text)
        except ValueError:
            score = math.nan
        if not 0 <= score <= _HIGHEST_SCORE:
            raise row.error(f"{column} {text!r}", f"a number from 0 to {_HIGHEST_SCORE:g}")
        return score

    def model_settings(self) -> dict[str, Any]:
        """Return the names of the labels, or the settings of a regression."""
        if not self.labels:
            return {"num_labels": 1, "problem_type": "regression"}
        names = dict(enumerate(self.labels.values()))
        return {
            "num_labels": len(names),
            "id2label": names,
            "label2id": {name: index for index, name in names.items()},
            "problem_type": "single_label_classification",
        }

    def encode(
        self, examples: Dataset, tokenizer: PreTrainedTokenizerFast, max_seq_length: int, *, training: bool
    ) -> Dataset:
        """Return one feature per example; in a pair that is too long, the longer sentence is cut first."""

        def features_of(batch: dict[str, list[Any]]) -> dict[str, Any]:
            texts = [batch[name] for name in (FIRST, SECOND) if name in batch]
            encoded = dict(tokenizer(*texts, truncation=True, max_length=max_seq_length))
            return encoded | ({"labels": batch[LABEL]} if LABEL in batch else {})

        return examples.map(features_of, batched=True, remove_columns=examples.column_names)

    def compute_metrics(self, examples: Dataset, features: Dataset, predictions: Any) -> dict[str, float]:
        """Return the metrics of the task, as fractions."""
        return self.metric(np.asarray(examples[LABEL][:]), self._predict(predictions))

    def _predict(self, logits: np.ndarray) -> np.ndarray:
        """Return label ids, or scores cut to their range."""
        return logits.argmax(axis=-1) if self.labels else np.clip(logits[:, 0], 0, _HIGHEST_SCORE)

    def write_predictions(
        self, folder: Path, split: str, examples: Dataset, features: Dataset, predictions: Any
    ) -> None:
        """Write one line per row of a split that has a file for predictions."""
        if split not in self.predictions:
            return
        found = self._predict(predictions)
        words = [list(self.labels)[index] for index in found] if self.labels else [f"{score:.3f}" for score in found]
        lines = [f"{index}\t{word}\n" for index, word in zip(examples[INDEX], words, strict=True)]
        with write_atomically(folder / self.predictions[split]) as file:
            file.write("".join(["index\tprediction\n", *lines]).encode())


def read_splits(task: SentenceTask, folder: Path, files: tuple[SentenceFile, ...]) -> dict[str, Columns]:
    """Return the columns of every split whose file is there; those that are not optional must be."""
    optional = {file.split for file in files if file.optional}
    found = find_files(folder, {file.split: file.names for file in files}, optional)
    return {file.split: task.read_columns(found[file.split], file) for file in files if file.split in found}


def _parse_index(row: Row, column: str) -> int:
    try:
        return int(row.fields[column])
    except ValueError:
        raise row.error(f"{column} {row.fields[column]!r}", "a whole number") from None
