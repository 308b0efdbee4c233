"""The protocol between a task and the code that trains it.

A task knows where its examples come from, how they become tokens and how predictions are scored. `seed_run.py` trains
and predicts, `seeds.py` runs all seeds and keeps the results; both work with any task. A new task is a class with the
members of `Task` and an entry in `registry.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class Splits:
    """The examples of a task, one per row, in columns that the task chooses."""

    train: Dataset | None
    """None if there is none and none is needed, as for predictions alone."""
    evaluation: dict[str, Dataset]
    """Splits with labels, by name. The first is evaluated after every epoch and chooses the best weights."""
    test: dict[str, Dataset]
    """Splits to be predicted, by name; may be empty, and its rows need no labels."""


class Task(Protocol):
    """One task. Its members are called in the order in which they are declared; examples are rows of `Splits`."""

    @property
    def name(self) -> str:
        """The task's name, for `--task` and in results.json."""

    @property
    def main_metric(self) -> str:
        """The key of `compute_metrics` that chooses among epochs and seeds: higher is better."""

    @property
    def defaults(self) -> Mapping[str, Any]:
        """Fields of `FinetuneSettings` with another default for this task: `{"max_seq_length": 384}`."""

    @property
    def options(self) -> Mapping[str, Any]:
        """The task's own options, as JSON values: a run can only be continued with the same ones."""

    @property
    def auto_class(self) -> str:
        """The Auto class of transformers with the task's head, such as AutoModelForSequenceClassification."""

    @property
    def collator_class(self) -> str:
        """The class of transformers that pads batches of features, such as DataCollatorWithPadding."""

    def load(self, data_dir: Path | None, *, training: bool = True) -> Splits:
        """Read all splits from a folder, or by name through `datasets` if it is None.

        Without `training`, only predictions are wanted: every split is optional, but one must be there. Raises
        `DataError` for a file, column or label that breaks the task's format, with file, line, what was found and what
        was expected.
        """

    def model_settings(self) -> dict[str, Any]:
        """Return the task's settings in the model's configuration, such as `num_labels` and `id2label`."""

    def encode(
        self, examples: Dataset, tokenizer: PreTrainedTokenizerFast, max_seq_length: int, *, training: bool
    ) -> Dataset:
        """Return features, the collator's input: one row per sequence, without padding.

        One example may give several features. Columns that are not arguments of the model's `forward` are kept for
        `compute_metrics` and `write_predictions`; the collator never sees them. Features for `training` have labels;
        features for predictions may have them, and the loss is then logged too.
        """

    def compute_metrics(self, examples: Dataset, features: Dataset, predictions: Any) -> dict[str, float]:
        """Return finite metrics, `main_metric` among them.

        `predictions` are the model's logits for all of `features` in their order: an array [features, …], padded with
        -100 where sequences differ in length, or a tuple of such arrays if the model has several outputs.
        """

    def write_predictions(
        self, folder: Path, split: str, examples: Dataset, features: Dataset, predictions: Any
    ) -> None:
        """Write the predictions for one split, evaluation or test, into `folder`, if there is a format for them.

        Arguments are those of `compute_metrics`; the examples of a test split may lack labels.
        """
