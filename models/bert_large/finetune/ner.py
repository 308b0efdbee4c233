"""The task `ner`: find the entities of a text by one tag per word (CoNLL-2003, or files of its format)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bert_large.errors import DataError
from bert_large.finetune.conll import OUTSIDE, Sentence, entity_scores, labels_of, read_conll, to_iob2
from bert_large.finetune.data_files import find_files, load_from_hub
from bert_large.finetune.task import Splits
from bert_large.finetune.word_chunks import make_chunks
from bert_large.storage.atomic import write_atomically

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict
    from transformers import PreTrainedTokenizerFast

FILES = {
    split: [*(f"{name}{ending}" for name in names for ending in (".txt", ".conll")), f"eng.{names[-1]}"]
    for split, names in (("train", ["train"]), ("validation", ["dev", "valid", "testa"]), ("test", ["test", "testb"]))
}
"""The names that the file of each split may have; the last ones are CoNLL-2003's own."""
HUB_DATASET = "eriktks/conll2003"


@dataclass(kw_only=True)
class NerTask:
    """Entity tags in the scheme IOB2; `Task` documents the members that are not documented here."""

    labels: list[str] = field(default_factory=list)
    """The labels of a fine-tuned model. If empty, those of the training data, once it is loaded."""
    name: str = "ner"
    main_metric: str = "f1"
    defaults: Mapping[str, Any] = field(default_factory=dict)
    auto_class: str = "AutoModelForTokenClassification"
    collator_class: str = "DataCollatorForTokenClassification"
    options: Mapping[str, Any] = field(default_factory=dict)

    def load(self, data_dir: Path | None, *, training: bool = True) -> Splits:
        """Read the files of `FILES`, or the hub's version; the test split is optional, and also evaluated."""
        if data_dir is None:
            sentences = _from_hub(load_from_hub(HUB_DATASET, revision="refs/convert/parquet"))
        else:
            files = find_files(data_dir, FILES, optional=("test",) if training else tuple(FILES))
            if not self.labels:
                self._take_labels(read_conll(files["train"]))
            sentences = {split: read_conll(path, self._types()) for split, path in files.items()}
        if not self.labels:
            self._take_labels(sentences["train"])
        splits = {split: _to_dataset(of_split) for split, of_split in sentences.items()}
        return Splits(train=splits.pop("train", None), evaluation=splits, test={})

    def _take_labels(self, training_data: Sequence[Sentence]) -> None:
        self.labels = labels_of(training_data)
        if self.labels == [OUTSIDE]:
            raise DataError("the training data has no entity: all its tags are O; expected tags such as B-PER")

    def _types(self) -> set[str]:
        """Return the types of entities that the model can find."""
        return {label[2:] for label in self.labels if label != OUTSIDE}

    def model_settings(self) -> dict[str, Any]:
        """Return the labels' names."""
        ids = {label: index for index, label in enumerate(self.labels)}
        return {"num_labels": len(ids), "id2label": dict(enumerate(self.labels)), "label2id": ids}

    def encode(
        self, examples: Dataset, tokenizer: PreTrainedTokenizerFast, max_seq_length: int, *, training: bool
    ) -> Dataset:
        """Return one feature per sentence, and several for a sentence that is too long."""
        label_ids = self.model_settings()["label2id"]

        def features_of(batch: dict[str, list[Any]], numbers: list[int]) -> dict[str, Any]:
            sentences = [Sentence(*columns) for columns in zip(batch["words"], batch["tags"], strict=True)]
            chunks = list(make_chunks(sentences, tokenizer, label_ids, max_seq_length=max_seq_length))
            return {
                "input_ids": [chunk.input_ids for chunk in chunks],
                "labels": [chunk.labels for chunk in chunks],
                "first_pieces": [chunk.first_pieces for chunk in chunks],
                "sentence": [numbers[chunk.sentence] for chunk in chunks],
            }

        return examples.map(features_of, batched=True, with_indices=True, remove_columns=examples.column_names)

    def compute_metrics(self, examples: Dataset, features: Dataset, predictions: Any) -> dict[str, float]:
        """Return conlleval's metrics, as percentages."""
        pairs = zip(examples["tags"], self._predict(examples, features, predictions), strict=True)
        return entity_scores(pairs, self._types())

    def write_predictions(
        self, folder: Path, split: str, examples: Dataset, features: Dataset, predictions: Any
    ) -> None:
        """Write conlleval's input: word, gold tag and predicted tag per line, and a blank line after each sentence."""
        with write_atomically(folder / f"{split}.conll") as file:
            for sentence, tags in zip(examples, self._predict(examples, features, predictions), strict=True):
                rows = zip(sentence["words"], sentence["tags"], tags, strict=True)
                file.write("".join([*(f"{' '.join(row)}\n" for row in rows), "\n"]).encode())

    def _predict(self, examples: Dataset, features: Dataset, logits: np.ndarray) -> list[list[str]]:
        """Return the tags of each sentence."""
        tags: list[list[str]] = [[] for _ in range(len(examples))]
        for feature, of_tokens in zip(features, logits, strict=True):
            best = of_tokens[feature["first_pieces"]].argmax(axis=-1)
            tags[feature["sentence"]] += [self.labels[index] for index in best]
        return tags


def _from_hub(splits: DatasetDict) -> dict[str, list[Sentence]]:
    """Return the sentences of each split of `HUB_DATASET`, which stores tags as numbers."""
    sentences = {}
    for split, rows in splits.items():
        names = rows.features["ner_tags"].feature.names
        sentences[split] = [
            Sentence(tuple(row["tokens"]), tuple(to_iob2([names[index] for index in row["ner_tags"]]))) for row in rows
        ]
    return sentences


def _to_dataset(sentences: Sequence[Sentence]) -> Dataset:
    from datasets import Dataset

    return Dataset.from_dict({name: [getattr(row, name) for row in sentences] for name in ("words", "tags")})
