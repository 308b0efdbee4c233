"""`bert-large finetune`: fine-tune a pretrained model on a labeled task, over several seeds, and evaluate it."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bert_large.config.options import CommandParser, add_settings, setting, settings_of
from bert_large.errors import InputError
from bert_large.extras import import_extra
from bert_large.finetune import squad
from bert_large.finetune.registry import TASKS, make_task, task_name
from bert_large.finetune.settings import FinetuneSettings
from bert_large.finetune.task import Task
from bert_large.storage.atomic import continuing_when_repeated
from bert_large.storage.lock import FolderLock

if TYPE_CHECKING:
    from bert_large.distributed.collectives import Ranks
    from bert_large.finetune.seeds import FinetuneRun
    from bert_large.train.stopping import StopRequest

_LARGEST_SEED = 2**32 - 1
_TRAINING_ONLY = (
    "seeds", "seed", "save_every", "resume", "epochs", "learning_rate", "warmup_share", "weight_decay",
    "max_train_samples",
)  # fmt: skip
"""Settings that predictions alone do not use."""


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions:
    """Task, input, output and course of `bert-large finetune`."""

    task: str = setting(text=f"one of {', '.join(TASKS)}")
    data_dir: Path | None = setting(
        None,
        "folder of the task's files, or of GLUE's folders",
        default_text="from Hugging Face's hub",
        variable="DATASET_DIR",
        path="input",
    )
    checkpoint_dir: Path = setting(
        text="model folder to start from, or OWNER/NAME of a model of the hub",
        path="input",
        aliases=("PRETRAINED_MODEL",),
    )
    output_dir: Path = setting(text="folder for everything that the run writes; one per run", path="output")
    vocab_file: Path | None = setting(None, "vocabulary", default_text="that of the model folder", path="input")
    do_lower_case: bool | None = setting(
        None, "convert text to lowercase and strip accents", default_text="as the model folder or the vocabulary says"
    )
    seeds: str | None = setting(
        None, "train once with each of these seeds, such as 1,2,3", default_text="42", alternative="seed"
    )
    seed: str | None = setting(None, "train once, with this seed")
    save_every: int = setting(200, "steps between checkpoints", within="[1, inf)")
    resume: str = setting(
        "auto", "auto: continue the folder's run; never: refuse a folder that holds a run", choices=("auto", "never")
    )
    engine: str = setting(
        "auto",
        "native: C++ kernels; eager: plain PyTorch; auto: native where it can",
        choices=("auto", "native", "eager"),
    )
    predict_only: bool = setting(
        False, "only predict, with a fine-tuned model as CHECKPOINT_DIR; no training file is needed"
    )


def add_arguments(parser: CommandParser) -> None:
    """Add the options."""
    add_settings(parser, FinetuneOptions)
    of_squad = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in squad.DEFAULTS.items())
    add_settings(parser, FinetuneSettings, title=f"settings (squad and squad2 have other defaults: {of_squad})")
    add_settings(parser, squad.SquadOptions, title="with --task squad or squad2")
    parser.checks.append(_find_conflicts)


def _find_conflicts(arguments: argparse.Namespace) -> list[str]:
    """Return a message for each setting of training that is given with --predict-only."""
    if not arguments.predict_only:
        return []
    return [
        f"{item.label(arguments.origins[item.attribute])} is given with --predict-only, which does not train; leave "
        "one of them out"
        for item in (*settings_of(FinetuneOptions), *settings_of(FinetuneSettings))
        if item.name in _TRAINING_ONLY and item.attribute in arguments.origins
    ]


def run(arguments: argparse.Namespace) -> int:
    """Fine-tune, or predict, and print a table; returns 0, or 128 + the signal that stopped it."""
    seeds = parse_seeds(arguments.seeds or arguments.seed or "42")
    task_name(arguments)  # an unknown task is reported before missing packages
    import_extra("finetune", "finetune", "accelerate", "datasets", "scipy", "sklearn", "transformers")

    from bert_large.distributed.joining import joined_ranks
    from bert_large.train.stopping import StopRequest

    _silence_libraries()
    stop = StopRequest()
    if not arguments.predict_only:
        stop.listen()
    with joined_ranks("gloo") as ranks, ranks.busy("fine-tuning"), contextlib.ExitStack() as stack:
        with ranks.failing_together():
            finetune_run = _prepare(arguments, seeds, ranks, stack)
        return _predict(finetune_run) if arguments.predict_only else _train(finetune_run, stop)


def _prepare(
    arguments: argparse.Namespace, seeds: tuple[int, ...], ranks: Ranks, stack: contextlib.ExitStack
) -> FinetuneRun:
    """Check the input, take the output folder until `stack` is closed, and return the run."""
    from bert_large.engines.precision import apply_precision
    from bert_large.finetune.model import trained_labels
    from bert_large.finetune.seeds import FinetuneRun
    from bert_large.finetune.tokenizer import load_tokenizer
    from bert_large.hub import model_folder
    from bert_large.log import start_logging
    from bert_large.model.pretrained import check_model_intact
    from bert_large.storage.output_folder import make_folder

    arguments.checkpoint_dir = model_folder(arguments.checkpoint_dir)
    check_model_intact(arguments.checkpoint_dir)
    labels = trained_labels(arguments.checkpoint_dir) if arguments.predict_only else None
    task = make_task(arguments, labels)
    settings = _settings(arguments, task)
    if settings.batch_size % ranks.world_size:
        raise InputError(f"batch_size is {settings.batch_size}, expected a multiple of the {ranks.world_size} ranks")
    tokenizer = load_tokenizer(arguments.checkpoint_dir, arguments.vocab_file, arguments.do_lower_case)
    length, positions = settings.max_seq_length, tokenizer.model_max_length
    if length > positions:
        raise InputError(f"max_seq_length is {length}, the model has positions for {positions}")
    make_folder(arguments.output_dir)
    if ranks.is_main:
        stack.enter_context(FolderLock(arguments.output_dir, "OUTPUT_DIR", lambda text: print(text, file=sys.stderr)))
    start_logging(arguments.output_dir / "train.log" if ranks.is_main else None)
    apply_precision(settings.precision)
    return FinetuneRun(
        task=task, settings=settings, checkpoint_dir=arguments.checkpoint_dir, tokenizer=tokenizer,
        data_dir=arguments.data_dir, output_dir=arguments.output_dir, seeds=seeds, engine=arguments.engine,
        save_every=arguments.save_every, resume=arguments.resume == "auto", ranks=ranks,
    )  # fmt: skip


def _predict(finetune_run: FinetuneRun) -> int:
    from bert_large.finetune.results import metrics_table
    from bert_large.finetune.seed_run import PREDICTIONS
    from bert_large.log import LOGGER

    metrics = finetune_run.predict()["metrics"]
    LOGGER.info("predictions are in %s", finetune_run.output_dir / PREDICTIONS)
    if metrics and finetune_run.ranks.is_main:
        sys.stdout.write(f"{metrics_table(finetune_run.task.name, metrics)}\n")
    return 0


def _train(finetune_run: FinetuneRun, stop: StopRequest) -> int:
    from bert_large.finetune.results import results_table
    from bert_large.finetune.seed_run import Stopped
    from bert_large.log import LOGGER

    try:
        with continuing_when_repeated(finetune_run.resume):
            results = finetune_run.run(stop)
    except Stopped:
        LOGGER.info("stopped by signal %d; the same command resumes the run", stop.signal_number)
        return 128 + stop.signal_number
    if finetune_run.ranks.is_main:
        sys.stdout.write(results_table(finetune_run.task.name, results) + "\n")
    return 0


def _silence_libraries() -> None:
    import datasets
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()


def _settings(arguments: argparse.Namespace, task: Task) -> FinetuneSettings:
    """Return the settings of the command line, and the task's defaults for the others."""
    given = {field.name: getattr(arguments, field.name) for field in dataclasses.fields(FinetuneSettings)}
    chosen = dict(task.defaults) | {name: value for name, value in given.items() if value is not None}
    return FinetuneSettings(**chosen)


def parse_seeds(text: str) -> tuple[int, ...]:
    """Return the seeds of `1,2,3`; raise `InputError` unless they are different whole numbers in range."""
    try:
        seeds = tuple(int(word) for word in text.split(","))
    except ValueError:
        seeds = ()
    if not seeds or len(set(seeds)) < len(seeds) or not all(0 <= seed <= _LARGEST_SEED for seed in seeds):
        raise InputError(f"--seeds is {text!r}, expected different numbers from 0 to {_LARGEST_SEED}, such as 1,2,3")
    return seeds
