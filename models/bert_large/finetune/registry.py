"""The tasks by name."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

from bert_large.config.options import check_options
from bert_large.errors import InputError
from bert_large.finetune import classification, glue, squad
from bert_large.finetune.ner import NerTask
from bert_large.finetune.task import Task

_MakeTask = Callable[[argparse.Namespace, Sequence[str] | None], Task]
# Each function makes a task from the arguments of the command and the labels of a fine-tuned model; without these, the
# task finds its labels in the training data. Names are compared without case and hyphens: STS-B is stsb.
TASKS: dict[str, _MakeTask] = {
    **{name: lambda _, labels, name=name: glue.make_task(name, labels) for name in glue.GLUE_TASKS},  # type: ignore[misc]
    "squad": lambda arguments, _: squad.make_task(arguments, "squad", "1.1"),
    "squad2": lambda arguments, _: squad.make_task(arguments, "squad2", "2.0"),
    "ner": lambda _, labels: NerTask(labels=list(labels or [])),
    classification.NAME: lambda arguments, labels: classification.make_task(arguments.data_dir, labels),
}
# The options that only some tasks have.
_OPTIONS = {"squad": squad.OPTIONS_OF_1, "squad2": squad.OPTIONS}


def task_name(arguments: argparse.Namespace) -> str:
    """Return the task that `--task` names; raise `InputError` if it is unknown, or an option is not for it."""
    name = arguments.task.lower().replace("-", "").replace("_", "")
    if name not in TASKS:
        raise InputError(f"--task {arguments.task!r} is unknown; choose one of {', '.join(TASKS)}")
    foreign = [option for option in squad.OPTIONS if option not in _OPTIONS.get(name, ())]
    check_options(arguments, f"--task {name}", (), foreign)
    return name


def make_task(arguments: argparse.Namespace, labels: Sequence[str] | None = None) -> Task:
    """Return the task that `--task` names, with its options; `labels` are those of a fine-tuned model."""
    return TASKS[task_name(arguments)](arguments, labels)
