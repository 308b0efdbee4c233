"""The tasks by name."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from bert_large.errors import InputError
from bert_large.finetune import glue
from bert_large.finetune.task import Task

# name: makes the task from the command's arguments. Names are compared without case and hyphens: STS-B is stsb.
TASKS: dict[str, Callable[[argparse.Namespace], Task]] = {
    name: lambda _, name=name: glue.GLUE_TASKS[name]  # type: ignore[misc]
    for name in glue.GLUE_TASKS
}


def add_task_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that only some tasks have."""


def make_task(arguments: argparse.Namespace) -> Task:
    """Return the task that `--task` names, with its options; raise `InputError` for one that is not known."""
    name = arguments.task.lower().replace("-", "").replace("_", "")
    if name not in TASKS:
        raise InputError(f"--task {arguments.task!r} is unknown; choose one of {', '.join(TASKS)}")
    return TASKS[name](arguments)
