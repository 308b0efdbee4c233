"""Settings of a training run: an option wins over a variable, a variable over the recipe, the recipe over a default."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from bert_large.cli import build_parser
from bert_large.config import recipes
from bert_large.config.hugging_face import BERT
from bert_large.config.model import ModelConfig
from bert_large.config.recipes import Resolved, describe_settings, resolve_settings
from bert_large.config.training import (
    RECIPE_SETTINGS,
    STEPS_OF_TIME,
    DataConfig,
    MlperfConfig,
    OptimConfig,
    RanksConfig,
    TrainConfig,
)
from bert_large.errors import InputError
from bert_large.train.settings import resolve, resolve_arguments, resolve_mlperf, resolve_ranks

from tests.support.runs import options


def resolved(tmp_path: Path, *words: str, **given: Any) -> tuple[DataConfig, OptimConfig, TrainConfig]:
    required = options(dataset_dir=tmp_path, output_dir=tmp_path / "out")
    return resolve(build_parser("pretrain").parse_args(["pretrain", *required, *options(**given), *words]))


def refused(capsys: pytest.CaptureFixture[str], *words: str, **given: Any) -> str:
    """Return the one line that the parser prints for a wrong command line."""
    with pytest.raises(SystemExit) as caught:
        build_parser("pretrain").parse_args(["pretrain", *options(output_dir="out", **given), *words])
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_defaults_are_intels(tmp_path: Path) -> None:
    data, optim, train = resolved(tmp_path)
    assert (train.global_batch_size, train.max_steps, train.max_samples) == (224, 13700, 4_500_000)
    assert (train.target_accuracy, train.eval_every_samples, train.eval_samples) == (0.72, 150_000, None)
    assert (train.phase, train.precision, train.engine, train.resume) == (1, "fp32", "auto", "auto")
    assert (train.seed, train.save_every, train.keep_checkpoints, train.micro_batch_tokens) == (42, 100, 2, 2048)
    assert (optim.optimizer, optim.learning_rate, optim.total_steps) == ("lamb", 3.5e-4, 13700)
    assert data == DataConfig(dataset_dir=tmp_path, max_seq_length=128, shuffle=True, workers=1, eval_dir=None)


@pytest.mark.parametrize(("phase", "precision", "batch", "length"), [(1, "bf16", 448, 128), (2, "bf16", 56, 512)])
def test_phase_and_precision_choose_in_the_recipe(
    tmp_path: Path, phase: int, precision: str, batch: int, length: int
) -> None:
    data, _, train = resolved(tmp_path, phase=phase, precision=precision)
    assert (train.global_batch_size, data.max_seq_length) == (batch, length)


def test_every_setting_has_an_option_that_wins(tmp_path: Path) -> None:
    """All of them, over a recipe that sets them and over a default."""
    given = {
        "global_batch_size": 3, "micro_batch_tokens": 5, "max_steps": 7, "total_steps": 11, "max_samples": 13,
        "target_accuracy": 0.5, "eval_every_samples": 17, "eval_samples": 19, "eval_at_start": True, "save_every": 23,
        "keep_checkpoints": 29, "optimizer": "adamw", "learning_rate": 0.125, "beta_1": 0.25, "beta_2": 0.375,
        "epsilon": 0.5, "weight_decay": 0.625, "max_gradient_norm": 0.75, "warmup_steps": 31, "start_warmup_step": -30,
        "decay_power": 0.875, "seed": 41, "max_bad_steps": 43, "detect_divergence": 0.9375, "stop_deadline": 47.0,
        "start_batch_size": 2, "batch_ramp_steps": 53, "schedule": "polynomial", "sequences": "packed",
        "dynamic_masking": True, "masking_rate": 0.25, "masking_unit": "span",
    }  # fmt: skip
    others = {"max_hours": 59.0, "schedule": "wsd", "warmup_fraction": 0.5, "decay_fraction": 0.375}
    assert {*given, *others, "max_seq_length", "masked_lm_only"} == set(RECIPE_SETTINGS)
    for values in (given, others):
        words = [word for name, value in values.items() for word in (f"--{name.replace('_', '-')}", str(value).lower())]
        found = {name: value for config in resolved(tmp_path, *words) for name, value in vars(config).items()}
        assert {name: found[name] for name in values} == values


def test_default_length_of_the_schedule(tmp_path: Path) -> None:
    assert resolved(tmp_path, max_steps=5)[1].total_steps == 5
    assert resolved(tmp_path, max_steps=5, total_steps=9)[1].total_steps == 9


@pytest.mark.parametrize(
    ("batch", "expected"), [(256, 150_000), (448, 150_000), (1536, 150_000), (3072, 175_000), (8192, 225_000)]
)
def test_evaluation_cadence_is_mlperfs_rule(tmp_path: Path, batch: int, expected: int) -> None:
    """floor(0.05 * (230.23 * GBS + 3,000,000) / 25,000) * 25,000 samples, unless the recipe sets them."""
    train = resolved(tmp_path, recipe="mlperf-256", phase=2, global_batch_size=batch)[2]
    assert train.eval_every_samples == expected


def test_every_setting_has_an_origin() -> None:
    settings = resolve_settings("mlperf-8192", phase=2, precision="fp32", given={"beta_1": 0.5, "seed": None})
    origins = {name: setting.origin for name, setting in settings.items()}
    assert set(origins) == set(RECIPE_SETTINGS)
    assert (settings["beta_1"].value, origins["beta_1"]) == (0.5, "option")
    assert (settings["beta_2"].value, origins["beta_2"]) == (0.88, "recipe mlperf-8192")
    assert (settings["seed"].value, origins["seed"]) == (42, "default")
    assert (settings["total_steps"].value, origins["total_steps"]) == (600, "max_steps")
    assert (settings["max_seq_length"].value, origins["max_seq_length"]) == (512, "phase 2")
    assert settings["eval_every_samples"] == Resolved(225_000, "MLPerf's rule for the global batch size")
    measured = resolve_settings("mlperf-8192", phase=2, precision="fp32", benchmark=True)
    assert measured["max_steps"] == Resolved(60, "--benchmark")


def test_a_variable_is_an_origin(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"BATCH_SIZE": "8", "MAX_STEPS": "7", "DATASET_DIR": "d", "OUTPUT_DIR": "o"}.items():
        monkeypatch.setenv(name, value)
    parsed = build_parser("pretrain").parse_args(["pretrain", "--from-environment", "--max-steps=5"])
    settings = resolve_arguments(parsed)
    assert settings["global_batch_size"] == Resolved(8, "variable")
    assert settings["max_steps"] == Resolved(5, "option")
    assert (parsed.dataset_dir, parsed.output_dir) == (Path("d"), Path("o"))


def test_description_of_settings() -> None:
    """One line per origin, for the run's log."""
    settings = {
        "seed": Resolved(1, "option"), "beta_1": Resolved(0.5, "recipe x"), "eval_samples": Resolved(None, "default"),
        "max_steps": Resolved(7, "option"), "eval_at_start": Resolved(True, "default"),
    }  # fmt: skip
    assert describe_settings(settings) == [
        "from option: seed 1, max_steps 7", "from recipe x: beta_1 0.5",
        "from default: eval_samples none, eval_at_start true",
    ]  # fmt: skip


def mlperf(tmp_path: Path, *words: str, architecture: str = BERT, **given: Any) -> MlperfConfig | None:
    values = {"dataset_dir": tmp_path, "output_dir": tmp_path / "out", "eval_dir": "held-out", **given}
    arguments = build_parser("pretrain").parse_args(["pretrain", *options(**values), *words])
    return resolve_mlperf(arguments, *resolve(arguments), ModelConfig(architecture=architecture))


def test_mlperf_options(tmp_path: Path) -> None:
    assert mlperf(tmp_path) is None
    assert mlperf(tmp_path, mlperf_log="log") == MlperfConfig(
        log=Path("log"), submitter="unspecified", platform=None, division="closed", status="research"
    )
    given = {"mlperf_submitter": "a", "mlperf_platform": "b", "mlperf_division": "open", "mlperf_status": "onprem"}
    assert mlperf(tmp_path, mlperf_log="log", **given) == MlperfConfig(
        log=Path("log"), submitter="a", platform="b", division="open", status="onprem"
    )


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"dynamic_masking": True}, "--dynamic-masking.*--mlperf-division open"),
        ({"optimizer": "adamw"}, "--optimizer adamw"),
        ({"schedule": "cosine"}, "--schedule"),
        ({"max_hours": 1}, "--max-hours"),
        ({"start_batch_size": 8, "batch_ramp_steps": 4}, "--start-batch-size"),
        ({"benchmark": True}, "--mlperf-log with --benchmark"),
        ({"eval_dir": "none"}, "--eval-dir"),
        ({"mlperf_log": None, "mlperf_platform": "x"}, "--mlperf-platform.*--mlperf-log"),
    ],
)
def test_runs_that_cannot_have_an_mlperf_log(tmp_path: Path, given: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        mlperf(tmp_path, **{"mlperf_log": "log", **given})


def test_an_mlperf_log_of_masked_lm_alone_is_open(tmp_path: Path) -> None:
    given = {"architecture": "BertForMaskedLM", "mlperf_log": "log"}
    with pytest.raises(InputError, match=r"BertForMaskedLM.*--mlperf-division open"):
        mlperf(tmp_path, **given)
    config = mlperf(tmp_path, **given, mlperf_division="open")
    assert config is not None and config.division == "open"


def test_benchmark(tmp_path: Path) -> None:
    """60 steps as in Intel's package, or the number given, without evaluation."""
    (tmp_path / "eval").mkdir()
    data, _, train = resolved(tmp_path, benchmark=True)
    assert (train.benchmark, train.max_steps, data.eval_dir) == (True, 60, None)
    assert resolved(tmp_path, benchmark=True, max_steps=4)[2].max_steps == 4


def test_text_in_place_of_records(tmp_path: Path) -> None:
    """The records, also those held out, are made in the output folder."""
    words = ["pretrain", *options(text_dir=tmp_path, output_dir=tmp_path / "out", dynamic_masking=True)]
    parse = build_parser("pretrain").parse_args
    records = tmp_path / "out" / "records"
    data = resolve(parse(words))[0]
    assert (data.text_dir, data.dataset_dir, data.eval_dir) == (tmp_path, records, records / "eval")
    assert data.dynamic_masking
    assert resolve(parse([*words, "--eval-dir", "none"]))[0].eval_dir is None
    for wrong in (words + options(dataset_dir=tmp_path), ["pretrain", *options(output_dir=tmp_path)]):
        with pytest.raises(SystemExit):
            parse(wrong)


def test_evaluation_data(tmp_path: Path) -> None:
    """The folder in the dataset folder, another folder, or none."""
    (tmp_path / "eval").mkdir()
    assert resolved(tmp_path)[0].eval_dir == tmp_path / "eval"
    assert resolved(tmp_path, eval_dir="/elsewhere")[0].eval_dir == Path("/elsewhere")
    assert resolved(tmp_path, eval_dir="none")[0].eval_dir is None


def test_data_options(tmp_path: Path) -> None:
    data = resolved(tmp_path, no_shuffle=True, data_workers=0, max_seq_length=64)[0]
    assert (data.shuffle, data.workers, data.max_seq_length) == (False, 0, 64)


def test_a_recipe_may_set_the_sequence_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It wins over the phase's, and the option over it."""
    recipe = {"max_seq_length": 256, "global_batch_size": 1, "max_steps": 1, "learning_rate": 1.0}
    monkeypatch.setattr(recipes, "resolve_recipe", lambda *names, **how: recipe)
    assert resolved(tmp_path)[0].max_seq_length == 256
    assert resolved(tmp_path, max_seq_length=64)[0].max_seq_length == 64


def ranks_settings(*words: str) -> RanksConfig:
    return resolve_ranks(build_parser("pretrain").parse_args(["pretrain", "--dataset-dir=d", "--output-dir=o", *words]))


def test_settings_of_ranks() -> None:
    assert ranks_settings() == RanksConfig(bucket_mb=25.0, gradient_compression="none", zero1=False)
    given = ranks_settings("--bucket-mb=0.5", "--gradient-compression=bf16", "--zero1")
    assert given == RanksConfig(bucket_mb=0.5, gradient_compression="bf16", zero1=True)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"max_steps": 20, "total_steps": 10}, ("--max-steps is 20", "--total-steps")),
        ({"warmup_steps": 10, "start_warmup_step": 20}, ("--start-warmup-step is 20",)),
        ({"start_warmup_step": 5}, ("--start-warmup-step is 5",)),
        ({"recipe": "bert-base", "max_steps": 1_000_001}, ("--max-steps is 1000001", "--total-steps 1000000")),
        ({"profile_steps": 3}, ("--profile-steps", "--profile")),
        ({"profile": True, "profile_steps": 0}, ("--profile-steps is 0",)),
        ({"global_batch_size": 10**11}, ("--global-batch-size is 100000000000",)),
        ({"rank_timeout": "nan", "rank_silence": "inf"}, ("--rank-timeout is nan", "--rank-silence is inf")),
        ({"bucket_mb": 0, "gradient_compression": "fp8"}, ("--bucket-mb is 0", "--gradient-compression is 'fp8'")),
        ({"mlperf_division": "ajar", "mlperf_status": "x"}, ("--mlperf-division is 'ajar'", "--mlperf-status is 'x'")),
        (dict.fromkeys(("total_steps", "eval_every_samples", "max_seq_length", "max_steps", "save_every"), 0),
         ("--total-steps is 0", "--eval-every-samples is 0", "--max-seq-length is 0", "--save-every is 0")),
        ({"recipe": "nvidia", "precision": "bf16"}, ("--recipe is 'nvidia'", "nvidia-phase1")),
        ({"precision": "fp8", "phase": 3, "engine": "turbo"}, ("'fp8'", "--phase is 3", "--engine is 'turbo'")),
        ({"max_hours": 1, "max_steps": 5, "total_steps": 9}, ("--max-steps", "--total-steps", "--max-hours")),
        ({"max_hours": 1, "warmup_steps": 5}, ("--warmup-steps", "--max-hours", "--warmup-fraction")),
        ({"max_hours": 1, "start_warmup_step": -5}, ("--start-warmup-step is -5", "--max-hours")),
        ({"max_hours": 0}, ("--max-hours is 0",)),
        ({"warmup_steps": 5, "warmup_fraction": 0.5}, ("--warmup-steps", "--warmup-fraction")),
        ({"schedule": "cosine", "decay_power": 2}, ("--decay-power", "--schedule is cosine")),
        ({"schedule": "linear", "decay_fraction": 0.5}, ("--decay-fraction", "--schedule is linear")),
        ({"schedule": "one-cycle", "start_warmup_step": -1}, ("--start-warmup-step is -1", "one-cycle")),
        ({"schedule": "one-cycle", "max_steps": 5, "warmup_steps": 5}, ("--warmup-steps is 5", "--total-steps 5")),
        ({"start_warmup_step": -5}, ("--start-warmup-step is -5", "--warmup-steps")),
        ({"start_warmup_step": -5, "warmup_steps": 5}, ("--start-warmup-step is -5", "5 steps")),
        ({"recipe": "mlperf-8192", "phase": 2, "warmup_steps": 50}, ("--start-warmup-step is -76", "50 steps")),
        ({"schedule": "wsd", "max_steps": 100, "warmup_fraction": 0.9, "decay_fraction": 0.5},
         ("after 0.9", "--decay-fraction is 0.5")),
        ({"schedule": "wsd", "max_hours": 1, "warmup_fraction": 0.9}, ("after 0.9", "--decay-fraction is 0.2")),
        ({"max_bad_records": 5}, ("--max-bad-records is 5", "--bad-records")),
        ({"eval_dir": "none", "target_accuracy": 0.7, "eval_at_start": True},
         ("--target-accuracy is 0.7", "--eval-at-start is true", "--eval-dir")),
        ({"schedule": "triangle"}, ("--schedule is 'triangle'", "one-cycle")),
        ({"start_batch_size": 8}, ("--start-batch-size 8", "--batch-ramp-steps")),
        ({"batch_ramp_steps": 8}, ("--start-batch-size", "--batch-ramp-steps is 8")),
        ({"start_batch_size": 500, "batch_ramp_steps": 8}, ("--start-batch-size is 500", "--global-batch-size")),
        ({"masking_rate": 0.4}, ("--masking-rate is 0.4", "--dynamic-masking")),
        ({"masking_rate": 0.15}, ("--masking-rate is 0.15", "--dynamic-masking")),
        ({"masking_unit": "word"}, ("--masking-unit is word", "--dynamic-masking")),
        ({"masking_rate": 1, "dynamic_masking": True}, ("--masking-rate is 1",)),
        ({"masking_unit": "ngram", "dynamic_masking": True}, ("--masking-unit is 'ngram'",)),
        ({"sequences": "full"}, ("--sequences is 'full'",)),
        ({"max_st": 5}, ("--max-st",)),  # an option added later must not change its meaning
    ],
)  # fmt: skip
def test_settings_that_are_refused(
    capsys: pytest.CaptureFixture[str], given: dict[str, Any], named: tuple[str, ...]
) -> None:
    """Wrong values, and values that do not fit together, on one line."""
    line = refused(capsys, dataset_dir="d", **given)
    assert all(text in line for text in named), line


@pytest.mark.parametrize(
    "given",
    [
        {"eval_dir": "none"},  # the target accuracy of the recipe does no harm
        {"eval_dir": "none", "eval_at_start": "false"},
        {"eval_dir": "none", "eval_every_samples": 9, "eval_samples": 8},
        {"bad_records": "skip", "max_bad_records": 5},
        {"start_warmup_step": -5, "warmup_steps": 6},
        {"recipe": "mlperf-8192", "phase": 2, "warmup_steps": 0},
        {"schedule": "wsd", "max_steps": 7, "warmup_fraction": 0.5, "decay_fraction": 0.5},  # 4 and 3.5 steps
        {"schedule": "wsd", "recipe": "bert-base", "max_steps": 100, "total_steps": 100},  # the warmup of the recipe
    ],
)
def test_settings_that_fit_together(tmp_path: Path, given: dict[str, Any]) -> None:
    found = {name: value for config in resolved(tmp_path, **given) for name, value in vars(config).items()}
    for name in given.keys() & {"start_warmup_step", "warmup_steps", "max_bad_records", "decay_fraction"}:
        assert found[name] == given[name]


def test_the_steps_of_a_run_of_hours_are_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, dataset_dir="d", max_hours=0.001, total_steps=40)
    assert "--total-steps" in line and str(STEPS_OF_TIME) not in line and "--max-steps" not in line


def test_a_precision_in_capitals(tmp_path: Path) -> None:
    assert resolved(tmp_path, precision="BF16")[2].precision == "bf16"


def test_a_length_that_is_given_replaces_the_recipes(tmp_path: Path) -> None:
    """Hours replace steps and samples; steps, and a benchmark, replace hours."""
    timed = resolved(tmp_path, max_hours=2)
    assert (timed[2].max_hours, timed[2].max_samples, timed[2].planned_steps) == (2.0, None, None)
    assert resolved(tmp_path, max_hours=2, max_samples=7)[2].max_samples == 7
    recipe = {"recipe": "day-on-one-node-base"}
    assert resolved(tmp_path, **recipe)[2].max_hours == 24
    assert resolved(tmp_path, **recipe, max_hours=2)[2].max_hours == 2
    _, optim, train = resolved(tmp_path, **recipe, max_steps=100)
    assert (train.max_hours, train.planned_steps, optim.total_steps, optim.warmup_steps) == (None, 100, 100, 75)
    measured = resolved(tmp_path, **recipe, benchmark=True)[2]
    assert (measured.max_hours, measured.max_steps) == (None, 60)


@pytest.mark.parametrize(
    ("given", "fraction"),
    [
        ({"recipe": "bert-base", "max_hours": 3}, 0.01),  # 10,000 of 1,000,000 steps
        ({"recipe": "bert-base", "max_hours": 3, "warmup_fraction": 0.25}, 0.25),
        ({"recipe": "day-on-one-node-large"}, 0.06),
        ({"schedule": "one-cycle", "max_hours": 3}, 0.3),
        ({"max_hours": 3}, 0.0),
        ({"schedule": "one-cycle", "max_steps": 1000}, 0.3),
        ({"schedule": "one-cycle", "max_steps": 1000, "warmup_steps": 500}, 0.5),
        ({"recipe": "continued", "max_steps": 1000, "warmup_steps": 100}, 0.1),
        ({"recipe": "continued", "phase": 2}, 0.06),
    ],
)
def test_the_fraction_of_the_warmup(tmp_path: Path, given: dict[str, Any], fraction: float) -> None:
    optim = resolved(tmp_path, **given)[1]
    assert optim.warmup_steps / optim.total_steps == pytest.approx(fraction)


def test_masking_of_a_recipe_needs_dynamic_masking(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    data = resolved(tmp_path, recipe="roberta-like", phase=2)[0]
    assert (data.dynamic_masking, data.sequences) == (True, "packed")
    line = refused(capsys, "--no-dynamic-masking", dataset_dir="d", recipe="continued", masking_unit="word")
    assert "--masking-unit is word" in line
    assert not resolved(tmp_path, "--no-dynamic-masking", recipe="continued")[0].dynamic_masking


def test_settings_that_a_recipe_lacks_must_be_given(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipes, "resolve_recipe", lambda *names, **how: {"learning_rate": 1.0})
    line = refused(capsys, dataset_dir="d")
    assert "recipe intel" in line and "--global-batch-size, --max-steps" in line
