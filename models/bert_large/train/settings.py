"""From the command line and a recipe to checked settings. An option wins over the recipe, the recipe over a default."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bert_large.config.model import ACTIVATIONS, ModelConfig
from bert_large.config.recipes import resolve_recipe
from bert_large.config.training import (
    GRADIENT_COMPRESSIONS,
    MLPERF_DIVISIONS,
    MLPERF_STATUSES,
    PHASE_SEQ_LENGTHS,
    PRECISIONS,
    RANK_SILENCE_SECONDS,
    RANK_TIMEOUT_SECONDS,
    DataConfig,
    MlperfConfig,
    OptimConfig,
    RanksConfig,
    TrainConfig,
    reference_eval_every_samples,
)
from bert_large.data.folders import EVAL_FOLDERS, find_eval_folder
from bert_large.errors import InputError


@dataclass(frozen=True)
class Setting:
    """A setting that a recipe may hold and an option override."""

    type: Callable[[str], Any]
    default: Any
    help: str


@dataclass(frozen=True)
class Resolved:
    """The value that a run uses of a setting, and where it comes from."""

    value: Any
    origin: str
    """"default", "recipe NAME", "option", or what it follows from."""


def _boolean(text: str) -> bool:
    if text not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return text == "true"


SETTINGS = {
    "global_batch_size": Setting(int, None, "sequences per optimizer step, over all ranks"),
    "micro_batch_tokens": Setting(int, 2048, "most tokens in one forward and backward pass of a rank"),
    "max_steps": Setting(int, None, "optimizer steps to train"),
    "total_steps": Setting(int, None, "length of the rate schedule in steps (default: max-steps)"),
    "max_samples": Setting(int, None, "stop after this many sequences"),
    "target_accuracy": Setting(float, None, "stop when an evaluation's masked-LM accuracy reaches this"),
    "eval_every_samples": Setting(
        int, None, "sequences between evaluations; a run that ends sooner has none (default: MLPerf's rule)"
    ),
    "eval_samples": Setting(int, None, "evaluate on the first records only (default: all)"),
    "eval_at_start": Setting(_boolean, False, "true: evaluate before the first step too"),
    "save_every": Setting(int, 100, "steps between checkpoints"),
    "keep_checkpoints": Setting(int, 2, "checkpoints to keep"),
    "max_bad_steps": Setting(int, 5, "stop after so many steps in a row without a finite loss and gradient"),
    "detect_divergence": Setting(
        float, None, "stop when the masked-LM loss, its mean over about 100 steps, is so many nats above its lowest"
    ),
    "stop_deadline": Setting(
        float, 60.0, "seconds after SIGTERM or Ctrl-C; a step that would take longer is dropped, not finished"
    ),
    "optimizer": Setting(str, "lamb", "lamb or adamw"),
    "learning_rate": Setting(float, None, "peak learning rate"),
    "beta_1": Setting(float, 0.9, "decay of the first moment"),
    "beta_2": Setting(float, 0.999, "decay of the second moment"),
    "epsilon": Setting(float, 1e-6, "added to the root of the second moment"),
    "weight_decay": Setting(float, 0.01, "decoupled weight decay"),
    "max_gradient_norm": Setting(float, 1.0, "clip gradients to this global norm"),
    "warmup_steps": Setting(int, 0, "steps of linear warmup"),
    "start_warmup_step": Setting(int, 0, "step at which warmup starts; may be negative"),
    "decay_power": Setting(float, 1.0, "power of the polynomial decay"),
    "seed": Setting(int, 42, "seed of weights, sample order, dropout and masks drawn anew"),
}
_REQUIRED = ("global_batch_size", "max_steps", "learning_rate")


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add an option for every setting."""
    group = parser.add_argument_group("settings (these override the recipe)")
    for name, setting in SETTINGS.items():
        default = "" if setting.default is None else f" (default {describe_value(setting.default)})"
        group.add_argument(f"--{name.replace('_', '-')}", type=setting.type, help=setting.help + default)


def add_compute_arguments(parser: argparse.ArgumentParser) -> None:
    """Add how to compute: precision and engine. Their values are checked with all others, not by argparse."""
    parser.add_argument("--precision", default="fp32", help=f"one of {', '.join(PRECISIONS)} (default fp32)")
    parser.add_argument("--engine", default="auto", help="auto, native, eager or ipex (default auto)")
    parser.add_argument("--backend", help="ccl, mpi or gloo: how ranks communicate (default: the best there is)")
    parser.add_argument("--gelu", choices=sorted(ACTIVATIONS), help="form of GELU (default: as the configuration says)")


def add_ranks_arguments(parser: argparse.ArgumentParser) -> None:
    """Add how several ranks share the work; values are checked with all others."""
    defaults = RanksConfig()
    group = parser.add_argument_group("several ranks")
    group.add_argument(
        "--bucket-mb", type=float, default=defaults.bucket_mb,
        help=f"MiB of gradients that are summed over ranks together (default {defaults.bucket_mb:g})",
    )  # fmt: skip
    group.add_argument(
        "--gradient-compression", default=defaults.gradient_compression,
        help=f"round gradients on their way between ranks: one of {', '.join(GRADIENT_COMPRESSIONS)} (default none)",
    )  # fmt: skip
    group.add_argument(
        "--zero1", action="store_true", help="keep and update the optimizer's state on one rank each, a share of it"
    )


def resolve_ranks(arguments: argparse.Namespace) -> RanksConfig:
    """Return the checked settings of ranks."""
    return RanksConfig(**_pick(vars(arguments), RanksConfig))


def add_watch_arguments(parser: argparse.ArgumentParser) -> None:
    """Add how long ranks wait for one another."""
    group = parser.add_argument_group("ranks that die or hang")
    group.add_argument(
        "--rank-silence", type=float, default=RANK_SILENCE_SECONDS,
        help="seconds without a sign of life from a rank after which the others end (default %(default)g)",
    )  # fmt: skip
    group.add_argument(
        "--rank-timeout", type=float, default=RANK_TIMEOUT_SECONDS,
        help="seconds that a rank may keep others waiting, alive but without progress (default %(default)g)",
    )  # fmt: skip


def add_mlperf_arguments(parser: argparse.ArgumentParser) -> None:
    """Add where the MLPerf log goes and what it says of the submission."""
    group = parser.add_argument_group("MLPerf")
    group.add_argument("--mlperf-log", help="write the run's MLPerf log there, such as result_0.txt (default: none)")
    group.add_argument("--mlperf-submitter", help="its submission_org (default unspecified)")
    group.add_argument("--mlperf-platform", help="its submission_platform (default: the CPU's name)")
    group.add_argument("--mlperf-division", help=f"one of {', '.join(MLPERF_DIVISIONS)} (default closed)")
    group.add_argument("--mlperf-status", help=f"one of {', '.join(MLPERF_STATUSES)} (default research)")


def resolve_mlperf(
    arguments: argparse.Namespace, data: DataConfig, optim: OptimConfig, train: TrainConfig, model: ModelConfig
) -> MlperfConfig | None:
    """Return what the MLPerf log needs, or None without one; refuses runs whose log could not be one."""
    given = {
        name: value
        for name in ("submitter", "platform", "division", "status")
        if (value := getattr(arguments, f"mlperf_{name}")) is not None
    }
    if arguments.mlperf_log is None:
        if given:
            raise InputError(f"--mlperf-{next(iter(given))} is given without --mlperf-log; name the log too")
        return None
    if optim.optimizer != "lamb":
        raise InputError(f"--mlperf-log with --optimizer {optim.optimizer}: MLPerf's rules for BERT know LAMB alone")
    if train.benchmark:
        raise InputError("--mlperf-log with --benchmark: a benchmark run does not train to a target; leave one out")
    if given.get("division", "closed") == "closed" and (data.dynamic_masking or data.text_dir is not None):
        raise InputError(
            "--mlperf-log with --dynamic-masking or --text-dir: MLPerf's closed division trains on its own records; "
            "give --mlperf-division open"
        )
    if data.eval_dir is None:
        raise InputError("--mlperf-log without evaluation data: give --eval-dir, or eval/ in the dataset folder")
    config = MlperfConfig(log=Path(arguments.mlperf_log), **given)
    if config.division == "closed" and not model.traits.has_next_sentence_head:
        raise InputError(
            f"--mlperf-log of {model.architecture}: in MLPerf's closed division BERT is trained to tell next sentences "
            "too; give --mlperf-division open, or leave the log out"
        )
    return config


def resolve_settings(
    recipe: str, *, phase: int, precision: str, benchmark: bool = False, given: Mapping[str, Any] | None = None
) -> dict[str, Resolved]:
    """Return every setting of a run and `max_seq_length`: what is `given` by options, the recipe's, or the default."""
    if phase not in PHASE_SEQ_LENGTHS:
        raise InputError(f"--phase is {phase}, expected 1 or 2")
    settings = {name: Resolved(setting.default, "default") for name, setting in SETTINGS.items()}
    settings["max_seq_length"] = Resolved(PHASE_SEQ_LENGTHS[phase], f"phase {phase}")
    values = resolve_recipe(recipe, phase=phase, precision=precision, known=set(settings))
    settings |= {name: Resolved(value, f"recipe {recipe}") for name, value in values.items()}
    given = given or {}
    settings |= {name: Resolved(given[name], "option") for name in settings if given.get(name) is not None}
    missing = [f"--{name.replace('_', '-')}" for name in _REQUIRED if settings[name].value is None]
    if missing:
        raise InputError(f"recipe {recipe} does not set {', '.join(missing)}; give it")
    if benchmark and settings["max_steps"].origin != "option":
        settings["max_steps"] = Resolved(BENCHMARK_STEPS, "--benchmark")
    if settings["total_steps"].value is None:
        settings["total_steps"] = Resolved(settings["max_steps"].value, "max_steps")
    if settings["eval_every_samples"].value is None:
        every = reference_eval_every_samples(settings["global_batch_size"].value)
        settings["eval_every_samples"] = Resolved(every, "MLPerf's rule for the global batch size")
    return settings


def resolve(arguments: argparse.Namespace) -> tuple[DataConfig, OptimConfig, TrainConfig]:
    """Return the run's checked settings; raises `InputError` before any work."""
    values = {name: setting.value for name, setting in resolve_arguments(arguments).items()}
    train = TrainConfig(
        output_dir=Path(arguments.output_dir), phase=arguments.phase, precision=arguments.precision,
        engine=arguments.engine, benchmark=arguments.benchmark, resume=arguments.resume,
        profile_steps=_resolve_profile_steps(arguments),
        **_pick(values, TrainConfig),
    )  # fmt: skip
    optim = OptimConfig(**_pick(values, OptimConfig))
    return _data_config(arguments, values["max_seq_length"]), optim, train


def _resolve_profile_steps(arguments: argparse.Namespace) -> int:
    """Return how many steps to profile, 0 if none."""
    steps = arguments.profile_steps
    if not arguments.profile:
        if steps is not None:
            raise InputError("--profile-steps is given without --profile; give both")
        return 0
    if steps is None:
        return PROFILE_STEPS
    if steps <= 0:
        raise InputError(f"--profile-steps is {steps}, expected > 0")
    return int(steps)


def resolve_arguments(arguments: argparse.Namespace) -> dict[str, Resolved]:
    """Return every setting that the options of `bert-large pretrain` ask for."""
    return resolve_settings(
        arguments.recipe,
        phase=arguments.phase,
        precision=arguments.precision,
        benchmark=arguments.benchmark,
        given=vars(arguments),
    )


def describe_settings(settings: Mapping[str, Resolved]) -> list[str]:
    """Return a line per origin that names its settings: `from recipe intel: learning_rate 0.00035, …`."""
    by_origin: dict[str, list[str]] = {}
    for name, setting in settings.items():
        by_origin.setdefault(setting.origin, []).append(f"{name} {describe_value(setting.value)}")
    return [f"from {origin}: {', '.join(by_origin[origin])}" for origin in by_origin]


def describe_value(value: Any) -> str:
    """Return a setting's value as a person reads it: `none` where there is none."""
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


BENCHMARK_STEPS = 60
"""Steps of a benchmark run, as in Intel's package."""
BENCHMARK_WARMUP_STEPS = 10
"""Steps left out of a summary's timing."""
PROFILE_STEPS = 3
"""Steps that `--profile` profiles unless told otherwise; a benchmark's are among those left out of its timing."""


TEXT_RECORDS = "records"
"""Folder in a run's output folder for the records made of its text."""


def _data_config(arguments: argparse.Namespace, max_seq_length: int) -> DataConfig:
    text_dir = None if arguments.text_dir is None else Path(arguments.text_dir)
    dataset_dir = Path(arguments.dataset_dir) if text_dir is None else Path(arguments.output_dir) / TEXT_RECORDS
    if arguments.eval_dir == "none" or arguments.benchmark:
        eval_dir = None
    elif arguments.eval_dir is not None:
        eval_dir = Path(arguments.eval_dir)
    elif text_dir is not None:
        eval_dir = dataset_dir / EVAL_FOLDERS[0]  # to be made, if there is text enough
    else:
        eval_dir = find_eval_folder(dataset_dir) if dataset_dir.is_dir() else None
    return DataConfig(
        dataset_dir=dataset_dir,
        text_dir=text_dir,
        eval_dir=eval_dir,
        max_seq_length=max_seq_length,
        shuffle=not arguments.no_shuffle,
        dynamic_masking=arguments.dynamic_masking,
        workers=arguments.data_workers,
        bad_records=arguments.bad_records,
        max_bad_records=arguments.max_bad_records,
    )


def _pick(values: dict[str, Any], config: type) -> dict[str, Any]:
    names = {field.name for field in dataclasses.fields(config)}
    return {name: value for name, value in values.items() if name in names}
