"""`bert-large finetune`: train a model folder on a labelled task, over several seeds, and evaluate it."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bert_large.errors import InputError
from bert_large.extras import missing_extra
from bert_large.finetune import squad
from bert_large.finetune.registry import TASKS, add_task_arguments, make_task, task_name
from bert_large.finetune.settings import PRECISIONS, FinetuneSettings
from bert_large.finetune.task import Task
from bert_large.storage.lock import FolderLock

_HELP = {
    "epochs": "passes over the training examples",
    "batch_size": "sequences per optimizer step",
    "learning_rate": "peak rate of AdamW, which then falls linearly",
    "warmup_share": "share of the steps in which the rate rises",
    "weight_decay": "decoupled, not on biases and LayerNorm",
    "max_seq_length": "tokens; longer sequences are cut",
    "precision": f"one of {', '.join(PRECISIONS)}",
    "max_train_samples": "train on the first examples only",
    "max_eval_samples": "evaluate on the first examples of each split only",
}
_LARGEST_SEED = 2**32 - 1


def _whole_number(text: str) -> int:
    """Return a whole number, which may be written with a decimal point as other tools do: `3.0`."""
    number = float(text)
    if not number.is_integer():
        raise ValueError
    return int(number)


_TYPES: dict[str, Callable[[str], Any]] = {
    "epochs": _whole_number,
    "learning_rate": float,
    "warmup_share": float,
    "weight_decay": float,
    "precision": str,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--task", required=True, help=f"one of {', '.join(TASKS)}")
    parser.add_argument("--data-dir", type=Path, help="folder of the task's files (default: from Hugging Face's hub)")
    parser.add_argument("--checkpoint-dir", type=Path, required=True, help="model_save folder to start from")
    parser.add_argument("--output-dir", type=Path, required=True, help="folder for all outputs, of one run")
    parser.add_argument("--vocab-file", type=Path, help="vocabulary (default: the model folder's)")
    parser.add_argument(
        "--do-lower-case",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="as for `prepare` (default: from the model folder, or from the vocabulary)",
    )
    seeds = parser.add_mutually_exclusive_group()
    seeds.add_argument("--seeds", help="one run per seed: 1,2,3 (default 42)")
    seeds.add_argument("--seed", help="one run with this seed")
    parser.add_argument("--save-every", type=int, default=200, help="steps between checkpoints (default 200)")
    parser.add_argument(
        "--resume",
        choices=("auto", "never"),
        default="auto",
        help="auto: continue the run in the folder; never: refuse a folder that holds one (default auto)",
    )
    parser.add_argument(
        "--predict-only",
        action="store_true",
        help="only predict, with a fine-tuned model as --checkpoint-dir; no training file is needed",
    )
    of_squad = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in squad.DEFAULTS.items())
    group = parser.add_argument_group("settings", f"For squad and squad2 the defaults are: {of_squad}.")
    for field in dataclasses.fields(FinetuneSettings):
        default = "" if field.default is None else f" (default {field.default})"
        group.add_argument(
            f"--{field.name.replace('_', '-')}", type=_TYPES.get(field.name, int), help=_HELP[field.name] + default
        )
    add_task_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Fine-tune, or predict, and print a table; returns 0, or 128 + the signal that stopped it."""
    seeds = parse_seeds(arguments.seeds or arguments.seed or "42")
    if arguments.save_every < 1:
        raise InputError(f"--save-every is {arguments.save_every}, expected > 0")
    task_name(arguments)  # an unknown one is an error before packages are
    _require_packages()

    import datasets
    import transformers

    from bert_large.engines.precision import apply_precision
    from bert_large.finetune.model import trained_labels
    from bert_large.finetune.results import metrics_table, results_table
    from bert_large.finetune.seed_run import PREDICTIONS, Stopped
    from bert_large.finetune.seeds import FinetuneRun
    from bert_large.finetune.tokenizer import load_tokenizer
    from bert_large.log import LOGGER, start_logging
    from bert_large.model.pretrained import check_model_intact
    from bert_large.storage.output_folder import make_folder
    from bert_large.train.stopping import StopRequest

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    stop = StopRequest()
    if not arguments.predict_only:
        stop.listen()
    check_model_intact(arguments.checkpoint_dir)
    labels = trained_labels(arguments.checkpoint_dir) if arguments.predict_only else None
    task = make_task(arguments, labels)
    settings = _settings(arguments, task)
    tokenizer = load_tokenizer(arguments.checkpoint_dir, arguments.vocab_file, arguments.do_lower_case)
    if settings.max_seq_length > tokenizer.model_max_length:
        raise InputError(
            f"max_seq_length is {settings.max_seq_length}, the model has positions for {tokenizer.model_max_length}"
        )
    make_folder(arguments.output_dir)
    with FolderLock(arguments.output_dir, "OUTPUT_DIR", lambda text: print(text, file=sys.stderr)):
        start_logging(arguments.output_dir / "train.log")
        apply_precision(settings.precision)
        finetune_run = FinetuneRun(
            task=task,
            settings=settings,
            checkpoint_dir=arguments.checkpoint_dir,
            tokenizer=tokenizer,
            data_dir=arguments.data_dir,
            output_dir=arguments.output_dir,
            seeds=seeds,
            save_every=arguments.save_every,
            resume=arguments.resume == "auto",
        )
        if arguments.predict_only:
            metrics = finetune_run.predict()["metrics"]
            LOGGER.info("predictions are in %s", arguments.output_dir / PREDICTIONS)
            sys.stdout.write(f"{metrics_table(task.name, metrics)}\n" if metrics else "")
            return 0
        try:
            results = finetune_run.run(stop)
        except Stopped:
            LOGGER.info("stopped by signal %d; the same command resumes the run", stop.signal_number)
            return 128 + stop.signal_number
        sys.stdout.write(results_table(task.name, results) + "\n")
    return 0


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


def _require_packages() -> None:
    try:
        import accelerate  # noqa: F401
        import datasets  # noqa: F401
        import scipy  # noqa: F401
        import sklearn  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as error:
        raise missing_extra("finetune", "finetune", error) from error
