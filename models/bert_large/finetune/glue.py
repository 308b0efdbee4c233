"""GLUE's nine tasks (Wang et al., 2018, arXiv:1804.07461): their files in the official layout, labels and metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from bert_large.errors import InputError
from bert_large.finetune.metrics import accuracy_and_f1, correlations, matthews_correlation
from bert_large.finetune.rows import Row, read_rows
from bert_large.finetune.sentences import PAIR, Columns, SentenceFile, SentenceTask, read_splits

_MRPC_IDS = ("#1 ID", "#2 ID")
_MRPC_TRAIN, _MRPC_TEST, _MRPC_DEV_IDS = "msr_paraphrase_train.txt", "msr_paraphrase_test.txt", "dev_ids.tsv"


def _files(
    texts: tuple[str, ...],
    *,
    label: str = "label",
    test_index: str = "index",
    evaluation: tuple[str, ...] = ("",),
    skip_short: bool = False,
    header: tuple[str, ...] | None = None,
) -> tuple[SentenceFile, ...]:
    """Return train.tsv, dev….tsv and test….tsv; `evaluation` has the suffixes of the latter two.

    `header` has the columns of the files with labels if they do not name them.
    """
    labeled = partial(SentenceFile, texts=texts, label=label, skip_short=skip_short, header=header)
    return (
        labeled(split="train", names=("train.tsv",)),
        *(labeled(split=f"validation{suffix}", names=(f"dev{suffix}.tsv",)) for suffix in evaluation),
        *(
            SentenceFile(split=f"test{suffix}", names=(f"test{suffix}.tsv",), texts=texts, index=test_index,
                         optional=True)
            for suffix in evaluation
        ),
    )  # fmt: skip


_DIAGNOSTIC_FILE = SentenceFile(
    split="ax",
    names=("diagnostic.tsv", "../diagnostic/diagnostic.tsv", "../AX/AX.tsv", "AX.tsv"),
    texts=PAIR,
    index="index",
    optional=True,
)


def _read_mrpc(task: SentenceTask, folder: Path, files: tuple[SentenceFile, ...]) -> dict[str, Columns]:
    """Read MRPC as GLUE's three files, or as its authors' two with GLUE's dev_ids.tsv.

    Those ids, one pair per line, name the rows of the authors' training file that are GLUE's validation split.
    """
    original = folder / _MRPC_TRAIN
    if (folder / "train.tsv").is_file() or not original.is_file():
        return read_splits(task, folder, files)
    if not (folder / _MRPC_DEV_IDS).is_file():
        raise InputError(
            f"--data-dir {folder} has {_MRPC_TRAIN} but no {_MRPC_DEV_IDS}, GLUE's list of the pairs to evaluate on; "
            "put it there, or give train.tsv and dev.tsv"
        )
    train, dev, test = files
    dev_ids = {_ids(row) for row in read_rows(folder / _MRPC_DEV_IDS, _MRPC_IDS, header=_MRPC_IDS)}
    rows = list(read_rows(original, (*_MRPC_IDS, *train.columns)))
    splits = {
        file.split: task.read_columns(
            original, file, (row for row in rows if (_ids(row) in dev_ids) == (file is dev))
        )
        for file in (train, dev)
    }  # fmt: skip
    if (folder / _MRPC_TEST).is_file():
        splits["test"] = task.read_columns(folder / _MRPC_TEST, replace(test, index=None))
    return splits


def _ids(row: Row) -> tuple[str, ...]:
    return tuple(row.fields[name] for name in _MRPC_IDS)


def _task(name: str, folder: str, files: tuple[SentenceFile, ...], labels: dict[str, str], **more: Any) -> SentenceTask:
    """Return a task, with the server's name for the predictions of its test split."""
    details = {"predictions": {"test": f"{folder}.tsv"}, **more}
    return SentenceTask(name=name, folder=folder, files=files, labels=labels, **details)


_ENTAILMENT = {name: name for name in ("entailment", "not_entailment")}
_MNLI_PREDICTIONS = {"test_matched": "MNLI-m.tsv", "test_mismatched": "MNLI-mm.tsv", "ax": "AX.tsv"}
_QUESTIONS, _QUESTION_AND_SENTENCE = ("question1", "question2"), ("question", "sentence")
_SCORED_BY_F1 = {"metric": accuracy_and_f1, "main_metric": "average"}
_TASKS = (
    _task("cola", "CoLA", _files(("sentence",), header=("source", "label", "mark", "sentence")),
          {"0": "unacceptable", "1": "acceptable"}, hub_texts=("sentence",),
          metric=matthews_correlation, main_metric="matthews_correlation"),
    _task("sst2", "SST-2", _files(("sentence",)), {"0": "negative", "1": "positive"}, hub_texts=("sentence",)),
    _task("mrpc", "MRPC", _files(("#1 String", "#2 String"), label="Quality"),
          {"0": "not_equivalent", "1": "equivalent"}, read=_read_mrpc, **_SCORED_BY_F1),
    # Some rows of the official files are cut short.
    _task("qqp", "QQP", _files(_QUESTIONS, label="is_duplicate", test_index="id", skip_short=True),
          {"0": "not_duplicate", "1": "duplicate"}, hub_texts=_QUESTIONS, **_SCORED_BY_F1),
    _task("stsb", "STS-B", _files(PAIR, label="score"), {}, metric=correlations, main_metric="average"),
    _task("mnli", "MNLI",
          (*_files(PAIR, label="gold_label", evaluation=("_matched", "_mismatched")), _DIAGNOSTIC_FILE),
          {name: name for name in ("entailment", "neutral", "contradiction")},
          hub_texts=("premise", "hypothesis"), predictions=_MNLI_PREDICTIONS),
    _task("qnli", "QNLI", _files(_QUESTION_AND_SENTENCE), _ENTAILMENT, hub_texts=_QUESTION_AND_SENTENCE),
    _task("rte", "RTE", _files(PAIR), _ENTAILMENT),
    _task("wnli", "WNLI", _files(PAIR), {"0": "not_entailment", "1": "entailment"}),
)  # fmt: skip
GLUE_TASKS = {task.name: task for task in _TASKS}


def make_task(name: str, labels: Sequence[str] | None) -> SentenceTask:
    """Return the task of this name; raise `InputError` if the labels of a fine-tuned model are others."""
    task = GLUE_TASKS[name]
    expected = list(task.labels.values()) or ["LABEL_0"]  # the name that transformers gives a score
    if labels is not None and [label.lower() for label in labels] != expected:
        raise InputError(
            f"CHECKPOINT_DIR has the labels {', '.join(labels)}, --task {name} has {', '.join(expected)}; give a model "
            f"that was fine-tuned for {name}, or --task classification"
        )
    return task
