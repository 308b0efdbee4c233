"""GLUE's nine tasks (Wang et al., 2018): classification of sentences and pairs, and one regression."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bert_large.finetune.glue_files import (
    COLA_FILES,
    DIAGNOSTIC_FILE,
    FIRST,
    INDEX,
    LABEL,
    SECOND,
    Columns,
    GlueFile,
    find_task_folder,
    read_files,
    read_mrpc,
    standard_files,
)
from bert_large.finetune.hub import load_from_hub
from bert_large.finetune.metrics import accuracy, accuracy_and_f1, correlations, matthews_correlation
from bert_large.finetune.task import Collator, Splits
from bert_large.finetune.tsv import Row
from bert_large.storage.atomic import write_atomically

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast

HUB_DATASET = "nyu-mll/glue"
_PAIR = ("sentence1", "sentence2")
_HIGHEST_SCORE = 5.0


@dataclass(frozen=True, kw_only=True)
class GlueTask:
    """One of the nine; `Task` explains the members that are not explained here."""

    name: str
    folder: str
    """Its folder in GLUE's layout."""
    files: tuple[GlueFile, ...]
    labels: Mapping[str, str]
    """Label in files and submissions → its name in the model; a label's place is its id. Empty: scores from 0 to 5."""
    metric: Callable[[np.ndarray, np.ndarray], dict[str, float]] = accuracy
    main_metric: str = "accuracy"
    hub_texts: tuple[str, ...] = _PAIR
    """Columns of the sentences in the hub's version, whose label ids are those here."""
    submissions: Mapping[str, str]
    """Test split → file that GLUE's server takes."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    def load(self, data_dir: Path | None) -> Splits:
        """Read GLUE's files, or the hub's version."""
        from datasets import Dataset

        if data_dir is None:
            columns = self._load_hub()
        else:
            read = read_mrpc if self.name == "mrpc" else read_files
            columns = read(find_task_folder(data_dir, self.folder), self.files, self._parse_label)
        splits = {name: Dataset.from_dict(values) for name, values in columns.items()}
        return Splits(
            train=splits["train"],
            evaluation={name: split for name, split in splits.items() if name.startswith("validation")},
            test={name: split for name, split in splits.items() if name in self.submissions},
        )

    def _load_hub(self) -> dict[str, Columns]:
        splits = dict(load_from_hub(HUB_DATASET, self.name))
        if "ax" in self.submissions:
            splits["ax"] = load_from_hub(HUB_DATASET, "ax")["test"]
        columns = dict(zip((FIRST, SECOND), self.hub_texts, strict=False)) | {INDEX: "idx"}
        return {
            name: {
                ours: split[theirs][:]
                for ours, theirs in (columns if name in self.submissions else columns | {LABEL: "label"}).items()
            }
            for name, split in splits.items()
        }

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

    def model_class(self) -> Any:
        """Return the class of sentence classifiers, which regression uses too."""
        from transformers import AutoModelForSequenceClassification

        return AutoModelForSequenceClassification

    def model_settings(self, splits: Splits) -> dict[str, Any]:
        """Return the labels' names, or that it is a regression."""
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
        """Return a feature an example; of a pair that is too long, the longer sentence is cut first."""

        def features_of(batch: dict[str, list[Any]]) -> dict[str, Any]:
            texts = [batch[name] for name in (FIRST, SECOND) if name in batch]
            encoded = dict(tokenizer(*texts, truncation=True, max_length=max_seq_length))
            return encoded | ({"labels": batch[LABEL]} if LABEL in batch else {})

        return examples.map(features_of, batched=True, remove_columns=examples.column_names)

    def collator(self, tokenizer: PreTrainedTokenizerFast) -> Collator:
        """Return padding to the longest of a batch."""
        from transformers import DataCollatorWithPadding

        return DataCollatorWithPadding(tokenizer)

    def compute_metrics(self, examples: Dataset, features: Dataset, predictions: Any) -> dict[str, float]:
        """Return GLUE's metrics of the task."""
        return self.metric(np.asarray(examples[LABEL][:]), self.predict(predictions))

    def predict(self, logits: np.ndarray) -> np.ndarray:
        """Return label ids, or scores within their range."""
        return logits.argmax(axis=-1) if self.labels else np.clip(logits[:, 0], 0, _HIGHEST_SCORE)

    def write_predictions(
        self, folder: Path, split: str, examples: Dataset, features: Dataset, predictions: Any
    ) -> None:
        """Write the file that GLUE's server takes of a test split; nothing of others."""
        if split not in self.submissions:
            return
        found = self.predict(predictions)
        words: Iterable[str] = (
            (list(self.labels)[index] for index in found) if self.labels else (f"{score:.3f}" for score in found)
        )
        lines = [f"{index}\t{word}\n" for index, word in zip(examples[INDEX], words, strict=True)]
        with write_atomically(folder / self.submissions[split]) as file:
            file.write("".join(["index\tprediction\n", *lines]).encode())


_ENTAILMENT = {"entailment": "entailment", "not_entailment": "not_entailment"}
_MNLI_LABELS = {name: name for name in ("entailment", "neutral", "contradiction")}
GLUE_TASKS = {
    task.name: task
    for task in (
        GlueTask(
            name="cola",
            folder="CoLA",
            files=COLA_FILES,
            labels={"0": "unacceptable", "1": "acceptable"},
            metric=matthews_correlation,
            main_metric="matthews_correlation",
            hub_texts=("sentence",),
            submissions={"test": "CoLA.tsv"},
        ),
        GlueTask(
            name="sst2",
            folder="SST-2",
            files=standard_files(("sentence",)),
            labels={"0": "negative", "1": "positive"},
            hub_texts=("sentence",),
            submissions={"test": "SST-2.tsv"},
        ),
        GlueTask(
            name="mrpc",
            folder="MRPC",
            files=standard_files(("#1 String", "#2 String"), label="Quality"),
            labels={"0": "not_equivalent", "1": "equivalent"},
            metric=accuracy_and_f1,
            main_metric="average",
            submissions={"test": "MRPC.tsv"},
        ),
        GlueTask(
            name="qqp",
            folder="QQP",
            files=standard_files(
                ("question1", "question2"), label="is_duplicate", test_index="id", skip_short=True
            ),  # some rows of the official files are cut short
            labels={"0": "not_duplicate", "1": "duplicate"},
            metric=accuracy_and_f1,
            main_metric="average",
            hub_texts=("question1", "question2"),
            submissions={"test": "QQP.tsv"},
        ),
        GlueTask(
            name="stsb",
            folder="STS-B",
            files=standard_files(_PAIR, label="score"),
            labels={},
            metric=correlations,
            main_metric="average",
            submissions={"test": "STS-B.tsv"},
        ),
        GlueTask(
            name="mnli",
            folder="MNLI",
            files=(
                *standard_files(_PAIR, label="gold_label", evaluation=("_matched", "_mismatched")),
                DIAGNOSTIC_FILE,
            ),
            labels=_MNLI_LABELS,
            hub_texts=("premise", "hypothesis"),
            submissions={"test_matched": "MNLI-m.tsv", "test_mismatched": "MNLI-mm.tsv", "ax": "AX.tsv"},
        ),
        GlueTask(
            name="qnli",
            folder="QNLI",
            files=standard_files(("question", "sentence")),
            labels=_ENTAILMENT,
            hub_texts=("question", "sentence"),
            submissions={"test": "QNLI.tsv"},
        ),
        GlueTask(
            name="rte",
            folder="RTE",
            files=standard_files(_PAIR),
            labels=_ENTAILMENT,
            submissions={"test": "RTE.tsv"},
        ),
        GlueTask(
            name="wnli",
            folder="WNLI",
            files=standard_files(_PAIR),
            labels={"0": "not_entailment", "1": "entailment"},
            submissions={"test": "WNLI.tsv"},
        ),
    )
}
