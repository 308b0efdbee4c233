"""What the Trainer run knows of a task: where its examples come from, how they become tokens, how answers are judged.

`trainer.py` trains and predicts, `run.py` goes over seeds and keeps results; neither knows one task from another. A new
task is a class with the members of `Task` and an entry in `tasks.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast

Collator = Callable[[list[dict[str, Any]]], "dict[str, torch.Tensor]"]


@dataclass(frozen=True)
class Splits:
    """The examples of a task as they were read, a row each, in columns of the task's own choice."""

    train: Dataset
    evaluation: dict[str, Dataset]
    """With labels, by name; at least one. The first is evaluated after every epoch and chooses the best weights."""
    test: dict[str, Dataset]
    """To be predicted, by name; may be empty, and its rows need no labels."""


class Task(Protocol):
    """One task. Its members are called in the order in which they stand here; examples are rows of `Splits`."""

    @property
    def name(self) -> str:
        """As `--task` takes it and results.json names it."""

    @property
    def main_metric(self) -> str:
        """The key of `compute_metrics` that chooses among epochs and seeds: higher is better."""

    @property
    def defaults(self) -> Mapping[str, Any]:
        """Fields of `FinetuneSettings` whose default is another for this task: `{"max_seq_length": 384}`."""

    @property
    def options(self) -> Mapping[str, Any]:
        """The task's own options, values that JSON can hold: a run goes on only with the same ones."""

    def load(self, data_dir: Path | None) -> Splits:
        """Read all splits from a folder, or without one by name through `datasets`.

        Raises `DataError` for a file, column or label that is not as the task's format has it: file, line, what was
        found, what was expected.
        """

    def model_class(self) -> Any:
        """Return the Auto class of transformers with the task's head, such as AutoModelForSequenceClassification."""

    def model_settings(self, splits: Splits) -> dict[str, Any]:
        """Return what `from_pretrained` sets in the model's configuration: `num_labels`, `id2label`, …"""

    def encode(
        self, examples: Dataset, tokenizer: PreTrainedTokenizerFast, max_seq_length: int, *, training: bool
    ) -> Dataset:
        """Return features: what the collator takes, one row a sequence, without padding.

        One example may give several features. Columns that are no arguments of the model's `forward`, such as
        `offset_mapping`, are kept for `compute_metrics` and `write_predictions` and never reach the collator.
        `training`: for the loss; else for predictions, where labels are optional: with them the loss is told too.
        """

    def collator(self, tokenizer: PreTrainedTokenizerFast) -> Collator:
        """Return what makes a padded batch of feature rows: transformers' `DataCollatorWithPadding` or its like."""

    def compute_metrics(self, examples: Dataset, features: Dataset, predictions: Any) -> dict[str, float]:
        """Return finite figures, `main_metric` among them.

        `predictions` are the model's logits for all of `features` in their order: an array [features, …], padded with
        -100 where sequences differ in length, or a tuple of such arrays where the model gives several.
        """

    def write_predictions(
        self, folder: Path, split: str, examples: Dataset, features: Dataset, predictions: Any
    ) -> None:
        """Write what the model says of one split, evaluation or test, into `folder`; nothing if there is no format.

        Arguments are those of `compute_metrics`; a test split's examples may lack labels.
        """
