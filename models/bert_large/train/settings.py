"""From the parsed command line, the environment and a recipe to the checked settings of a training run."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bert_large.config import resolved
from bert_large.config.model import ModelConfig
from bert_large.config.options import describe_value, settings_of
from bert_large.config.recipes import Resolved, resolve_settings
from bert_large.config.training import (
    PROFILE_STEPS,
    RECIPE_SETTINGS,
    DataConfig,
    MlperfConfig,
    OptimConfig,
    RanksConfig,
    TrainConfig,
)
from bert_large.data.folders import EVAL_FOLDERS, find_eval_folder
from bert_large.errors import InputError
from bert_large.observe.mlperf import check_log

TEXT_RECORDS = "records"
"""Folder in a run's output folder for the records made of its text."""
_NO_EVALUATION = "none"
"""The word in place of the folder of held-out records."""


def resolve_arguments(arguments: argparse.Namespace) -> dict[str, Resolved]:
    """Return every setting that a recipe may hold, as the options of `bert-large pretrain` decide it."""
    return resolve_settings(
        arguments.recipe,
        phase=arguments.phase,
        precision=arguments.precision,
        benchmark=arguments.benchmark,
        given=vars(arguments),
        origins={item.name: arguments.origins.get(item.attribute, "option") for item in RECIPE_SETTINGS.values()},
    )


def find_conflicts(arguments: argparse.Namespace) -> list[str]:
    """Return what is wrong with settings that are right one by one; a wrong setting is None in `arguments`."""
    problems = [*_find_half_a_profile(arguments), *_find_useless_bad_records(arguments)]
    if None in (arguments.phase, arguments.precision, arguments.recipe):
        return problems
    try:
        settings = resolve_arguments(arguments)
    except InputError as error:
        return [*problems, str(error)]
    return [*problems, *_find_useless_evaluations(arguments, settings), *resolved.find_conflicts(settings)]


def _find_half_a_profile(arguments: argparse.Namespace) -> list[str]:
    if arguments.profile and arguments.profile_steps == 0:
        return ["--profile-steps is 0 with --profile, expected an integer of at least 1"]
    if arguments.profile_steps and not arguments.profile:
        return ["--profile-steps is given without --profile; give both"]
    return []


def _find_useless_bad_records(arguments: argparse.Namespace) -> list[str]:
    is_given = "max_bad_records" in arguments.origins and arguments.max_bad_records is not None
    if not is_given or arguments.bad_records != "stop":
        return []
    return [
        f"--max-bad-records is {arguments.max_bad_records}, but --bad-records is stop, which skips none; give "
        "--bad-records skip, or leave it out"
    ]


def _find_useless_evaluations(arguments: argparse.Namespace, settings: Mapping[str, Resolved]) -> list[str]:
    """Find evaluations that are asked for in a run without any; how often and on how many samples does no harm."""
    if str(arguments.eval_dir) != _NO_EVALUATION:
        return []
    return [
        f"--{RECIPE_SETTINGS[name].option} is {describe_value(settings[name].value)} with --eval-dir none, so that "
        "nothing is evaluated; give a folder of held-out records, or leave it out"
        for name in ("target_accuracy", "eval_at_start")
        if settings[name].is_given and settings[name].value
    ]


def resolve(arguments: argparse.Namespace) -> tuple[DataConfig, OptimConfig, TrainConfig]:
    """Return the run's checked settings; raises `InputError` before any work."""
    settings = resolve_arguments(arguments)
    values = {**vars(arguments), **{name: setting.value for name, setting in settings.items()}}
    values["profile_steps"] = (arguments.profile_steps or PROFILE_STEPS) if arguments.profile else 0
    train = TrainConfig(**_pick(values, TrainConfig))
    return _data_config(arguments, values), OptimConfig(**_pick(values, OptimConfig)), train


def resolve_ranks(arguments: argparse.Namespace) -> RanksConfig:
    """Return the checked settings of ranks."""
    return RanksConfig(**_pick(vars(arguments), RanksConfig))


def resolve_mlperf(
    arguments: argparse.Namespace, data: DataConfig, optim: OptimConfig, train: TrainConfig, model: ModelConfig
) -> MlperfConfig | None:
    """Return the settings of the MLPerf log, None without one; raises `InputError` if the log could not be valid."""
    if arguments.mlperf_log is None:
        given = [item.option for item in settings_of(MlperfConfig) if item.attribute in arguments.origins]
        if given:
            raise InputError(f"--{given[0]} is given without --mlperf-log; name the log too")
        return None
    config = MlperfConfig(**{item.name: getattr(arguments, item.attribute) for item in settings_of(MlperfConfig)})
    if optim.schedule != "polynomial" or train.max_hours is not None or train.start_batch_size is not None:
        raise InputError(
            "--mlperf-log with --schedule, --max-hours or --start-batch-size: the log describes the polynomial decay "
            "over a number of steps, and a constant batch; leave them out"
        )
    is_closed = config.division == "closed"
    if optim.optimizer != "lamb":
        raise InputError(f"--mlperf-log with --optimizer {optim.optimizer}: MLPerf's rules for BERT allow only LAMB")
    if train.benchmark:
        raise InputError("--mlperf-log with --benchmark: a benchmark run does not train to a target; leave one out")
    if is_closed and (data.dynamic_masking or data.text_dir is not None):
        raise InputError(
            "--mlperf-log with --dynamic-masking or --text-dir: MLPerf's closed division trains on its own records; "
            "give --mlperf-division open"
        )
    if data.eval_dir is None:
        raise InputError("--mlperf-log without evaluation data: give --eval-dir, or eval/ in the dataset folder")
    if is_closed and not model.traits.has_next_sentence_head:
        raise InputError(
            f"--mlperf-log of {model.architecture}: MLPerf's closed division trains BERT with the next-sentence head; "
            "give --mlperf-division open, or leave the log out"
        )
    check_log(config.log, train.output_dir)
    return config


def _data_config(arguments: argparse.Namespace, values: Mapping[str, Any]) -> DataConfig:
    text_dir = arguments.text_dir
    dataset_dir = arguments.dataset_dir if text_dir is None else Path(arguments.output_dir) / TEXT_RECORDS
    if arguments.eval_dir is None and text_dir is not None:
        eval_dir: Path | None = dataset_dir / EVAL_FOLDERS[0]  # made with the records, if there is enough text
    elif arguments.eval_dir is None:
        eval_dir = find_eval_folder(dataset_dir) if dataset_dir.is_dir() else None
    else:
        eval_dir = arguments.eval_dir
    return DataConfig(
        dataset_dir=dataset_dir,
        text_dir=text_dir,
        eval_dir=None if arguments.benchmark or str(arguments.eval_dir) == _NO_EVALUATION else eval_dir,
        shuffle=not arguments.no_shuffle,
        shuffle_window=arguments.shuffle_window,
        index_dir=arguments.index_dir,
        workers=arguments.data_workers,
        bad_records=arguments.bad_records,
        max_bad_records=arguments.max_bad_records,
        **{item.name: values[item.name] for item in settings_of(DataConfig) if item.deferred},
    )


def _pick(values: Mapping[str, Any], config: type) -> dict[str, Any]:
    names = {field.name for field in dataclasses.fields(config)}
    return {name: value for name, value in values.items() if name in names}
