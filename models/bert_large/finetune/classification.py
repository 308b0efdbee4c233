"""The task `classification`: classes of the user's own, for sentences or pairs of sentences in files of the user.

Files: train, dev and test, each `.tsv` or `.csv`, with a header. Columns: `sentence` or `text`, or `sentence1` and
`sentence2`; and `label`, any text, which test files need not have. The classes are the labels of the training file.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bert_large.errors import DataError, InputError
from bert_large.finetune.data_files import find_files
from bert_large.finetune.metrics import accuracy_and_macro_f1
from bert_large.finetune.rows import column_names, read_rows
from bert_large.finetune.sentences import PAIR, SentenceFile, SentenceTask

NAME = "classification"
_NAMES = {
    split: tuple(f"{name}{ending}" for name in names for ending in (".tsv", ".csv"))
    for split, names in {"train": ("train",), "validation": ("dev", "valid", "validation"), "test": ("test",)}.items()
}
_TEXTS = (("sentence",), ("text",), PAIR)
_LABEL = "label"
_SEPARATORS = set("\t\r\n")
"""Characters that would divide the rows of the predictions, which have no quoting."""


def make_task(data_dir: Path | None, labels: Sequence[str] | None) -> SentenceTask:
    """Return the task of the files in a folder.

    `labels` are those of a fine-tuned model; if None, those of the training data are used.
    """
    if data_dir is None:
        raise InputError(f"--task {NAME} needs --data-dir: the folder of your train, dev and test files")
    found = find_files(data_dir, _NAMES, ("test",) if labels is None else tuple(_NAMES))
    if labels is None:
        labels = _labels_of(found["train"])
    return SentenceTask(
        name=NAME,
        files=tuple(
            SentenceFile(
                split=split,
                names=_NAMES[split],
                texts=_texts_of(path),
                label=None if split == "test" else _LABEL,
                optional=split == "test",
            )
            for split, path in found.items()
        ),
        labels={label: label for label in labels},
        metric=accuracy_and_macro_f1,
        predictions={"validation": "dev.tsv", "test": "test.tsv"},
    )


def _texts_of(path: Path) -> tuple[str, ...]:
    columns = column_names(path)
    for texts in _TEXTS:
        if set(texts) <= set(columns):
            return texts
    expected = " or ".join(" and ".join(texts) for texts in _TEXTS)
    raise DataError(f"{path}: line 1: found the columns {', '.join(columns) or 'of none'}, expected {expected}")


def _labels_of(path: Path) -> list[str]:
    """Return the labels of the training file, numbers in their order and others in alphabetical order."""
    labels = set()
    for row in read_rows(path, (_LABEL,)):
        label = row.fields[_LABEL]
        if not label.strip() or set(label) & _SEPARATORS:  # a quoted field of a CSV file may have these
            raise row.error(f"the label {label!r}", "a label that is not blank, without tabs and line breaks")
        labels.add(label)
    if len(labels) < 2:
        raise DataError(f"{path}: found the labels {sorted(labels)}, expected at least two different ones")
    return sorted(labels, key=lambda label: (0, int(label), label) if label.isdecimal() else (1, 0, label))
