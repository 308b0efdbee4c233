"""The tasks by name."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from bert_large.config.options import check_options
from bert_large.errors import InputError
from bert_large.finetune import glue, squad
from bert_large.finetune.ner import NerTask
from bert_large.finetune.task import Task

# name: makes the task from the command's arguments. Names are compared without case and hyphens: STS-B is stsb.
TASKS: dict[str, Callable[[argparse.Namespace], Task]] = {
    **{name: lambda _, name=name: glue.GLUE_TASKS[name] for name in glue.GLUE_TASKS},  # type: ignore[misc]
    "squad": lambda arguments: squad.make_task(arguments, "squad", "1.1"),
    "squad2": lambda arguments: squad.make_task(arguments, "squad2", "2.0"),
    "ner": lambda _: NerTask(),
}
# The options that only some tasks have.
_OPTIONS = {"squad": squad.OPTIONS_OF_1, "squad2": squad.OPTIONS}


def add_task_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that only some tasks have."""
    squad.add_arguments(parser)


def make_task(arguments: argparse.Namespace) -> Task:
    """Return the task that `--task` names, with its options; raise `InputError` for one that is not known."""
    name = arguments.task.lower().replace("-", "").replace("_", "")
    if name not in TASKS:
        raise InputError(f"--task {arguments.task!r} is unknown; choose one of {', '.join(TASKS)}")
    foreign = [option for option in squad.OPTIONS if option not in _OPTIONS.get(name, ())]
    check_options(arguments, f"--task {name}", (), foreign)
    return TASKS[name](arguments)
