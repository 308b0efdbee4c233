"""The checked settings of a training run."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping
from pathlib import Path

from bert_large.config.model import ModelConfig
from bert_large.config.recipes import Resolved
from bert_large.config.training import DataConfig, MlperfConfig, OptimConfig, RanksConfig, TrainConfig
from bert_large.data.folders import find_training_folder, known_subfolders
from bert_large.engines import check_engine
from bert_large.errors import InputError
from bert_large.hub import model_folder
from bert_large.observe.mlflow import check_mlflow
from bert_large.prepare.dataset import TextSettings, vocab_of
from bert_large.train.datasets import require_vocab, resolve_text
from bert_large.train.initial_model import describe_origin, resolve_model_config, resolve_vocab
from bert_large.train.profile import check_size
from bert_large.train.settings import resolve, resolve_arguments, resolve_mlperf, resolve_ranks


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """The checked settings of a run."""

    data: DataConfig
    optim: OptimConfig
    train: TrainConfig
    ranks: RanksConfig
    model: ModelConfig
    model_origin: str
    """Origin of `model` and of its weights, for the log."""
    initial_weights: Path | None
    vocab_file: Path | None
    do_lower_case: bool | None
    """If None, as the vocabulary says."""
    strip_accents: bool | None
    """If None, as the vocabulary says, or as `do_lower_case`."""
    text: TextSettings | None
    """How records are made of text before training; None if there are records."""
    mlperf: MlperfConfig | None
    mlflow: bool
    """Whether settings and metrics are also logged to MLflow."""
    settings: Mapping[str, Resolved]
    """Values and origins of the settings that a recipe may hold."""


def _require_sequences(train: TrainConfig, world_size: int) -> None:
    """Raise `InputError` if the smallest batch has less than one sequence per rank."""
    batch, name = train.global_batch_size, "--global-batch-size"
    if train.start_batch_size is not None:
        batch, name = train.start_batch_size, "--start-batch-size"
    if batch < world_size:
        raise InputError(f"{name} is {batch}, expected at least one sequence per rank; there are {world_size} ranks")


def _require_separate_folders(data: DataConfig, train: TrainConfig, mlperf: MlperfConfig | None) -> None:
    """Raise `InputError` if a file that the run writes would be read as text or as a shard, by this or a later run.

    All folders inside a text folder are read, too; of a folder of shards, only its own files.
    """
    outputs = {"OUTPUT_DIR": train.output_dir, "INDEX_DIR": data.index_dir}
    if mlperf is not None:
        outputs["the folder of --mlperf-log"] = mlperf.log.parent
    shards = [*known_subfolders(data.dataset_dir), *([data.eval_dir] if data.eval_dir is not None else [])]
    if data.text_dir is None:
        shards.append(find_training_folder(data.dataset_dir, data.max_seq_length))
    read = {folder.resolve() for folder in shards}
    for name, folder in outputs.items():
        if folder is None:
            continue
        if folder.resolve() in read:
            raise InputError(
                f"{name} {folder} is a folder of records, and files written there would be read as shards; choose "
                "another folder"
            )
        if data.text_dir is not None and folder.resolve().is_relative_to(data.text_dir.resolve()):
            raise InputError(
                f"{name} {folder} is inside TEXT_DIR {data.text_dir}, and files written there would be read as text; "
                "choose another folder"
            )
    if data.text_dir is not None and data.text_dir.resolve().is_relative_to(data.dataset_dir.resolve()):
        raise InputError(
            f"TEXT_DIR {data.text_dir} is inside {data.dataset_dir}, where the run makes its records; choose another "
            "OUTPUT_DIR"
        )


def check_settings(arguments: argparse.Namespace, world_size: int = 1) -> Run:
    """Return the run's settings after every check that needs no records."""
    data, optim, train = resolve(arguments)
    settings = resolve_arguments(arguments)
    _require_sequences(train, world_size)
    check_engine(train.engine, train.precision)
    given_dir, checkpoint_dir = arguments.checkpoint_dir, _find_initial_model(arguments)
    model = resolve_model_config(
        arguments.config_file,
        checkpoint_dir,
        arguments.gelu,
        vocab_file=arguments.vocab_file,
        masked_lm_only=settings["masked_lm_only"].value,
        least_positions=data.max_seq_length,
        extend_vocab=arguments.extend_vocab,
    )
    mlperf = resolve_mlperf(arguments, data, optim, train, model)
    if arguments.mlflow:
        check_mlflow()
    if train.profile_steps:
        check_size(
            layers=model.num_hidden_layers,
            sequences=-(-train.global_batch_size // world_size),
            max_seq_length=data.max_seq_length,
            micro_batch_tokens=train.micro_batch_tokens,
        )
    vocab_file = resolve_vocab(arguments.vocab_file, checkpoint_dir, model)
    text = resolve_text(
        data,
        vocab_file,
        model,
        from_checkpoint=checkpoint_dir is not None,
        do_lower_case=arguments.do_lower_case,
        strip_accents=arguments.strip_accents,
        extend_vocab=arguments.extend_vocab,
    )
    if text is not None:
        vocab_file = vocab_of(data.dataset_dir, text)
    _require_separate_folders(data, train, mlperf)
    if data.dynamic_masking:
        require_vocab(vocab_file)
    return Run(
        data=data,
        optim=optim,
        train=train,
        ranks=resolve_ranks(arguments),
        model=model,
        model_origin=describe_origin(arguments.config_file, checkpoint_dir, model)
        + (f", new weights as CHECKPOINT_DIR {given_dir} is empty" if given_dir and checkpoint_dir is None else ""),
        initial_weights=checkpoint_dir,
        vocab_file=vocab_file,
        do_lower_case=arguments.do_lower_case if text is None else text.casing.do_lower_case,
        strip_accents=arguments.strip_accents if text is None else text.casing.strip_accents,
        text=text,
        mlperf=mlperf,
        mlflow=arguments.mlflow,
        settings=settings,
    )


def _find_initial_model(arguments: argparse.Namespace) -> Path | None:
    """Return the model folder to start from, or None for new weights.

    Phase 1 takes an empty CHECKPOINT_DIR for none: Intel's instructions set one that phase 1 is to fill.
    """
    folder: Path | None = None if arguments.checkpoint_dir is None else model_folder(arguments.checkpoint_dir)
    if folder is not None and arguments.phase == 1 and folder.is_dir() and not any(folder.iterdir()):
        return None
    return folder
