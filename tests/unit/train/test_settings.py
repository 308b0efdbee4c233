"""Settings: an option wins over the recipe, the recipe over a default."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from bert_large.cli import build_parser
from bert_large.config.hugging_face import BERT
from bert_large.config.model import ModelConfig
from bert_large.config.training import DataConfig, MlperfConfig, OptimConfig, RanksConfig, TrainConfig
from bert_large.errors import InputError
from bert_large.train.settings import (
    SETTINGS,
    Resolved,
    describe_settings,
    resolve,
    resolve_mlperf,
    resolve_ranks,
    resolve_settings,
)

from tests.support.runs import options


def resolved(tmp_path: Path, *words: str, **given: Any) -> tuple[DataConfig, OptimConfig, TrainConfig]:
    required = options(dataset_dir=tmp_path, output_dir=tmp_path / "out")
    return resolve(build_parser("pretrain").parse_args(["pretrain", *required, *options(**given), *words]))


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
        "epsilon": 0.5, "weight_decay": 0.625, "max_gradient_norm": 0.75, "warmup_steps": 31, "start_warmup_step": -37,
        "decay_power": 0.875, "seed": 41, "max_bad_steps": 43, "detect_divergence": 0.9375, "stop_deadline": 47.0,
    }  # fmt: skip
    assert set(given) == set(SETTINGS)
    words = [word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", str(value).lower())]
    _, optim, train = resolved(tmp_path, *words)
    assert {name: getattr(optim if hasattr(optim, name) else train, name) for name in given} == given


def test_schedule_is_as_long_as_the_run_unless_told(tmp_path: Path) -> None:
    assert resolved(tmp_path, max_steps=5)[1].total_steps == 5
    assert resolved(tmp_path, max_steps=5, total_steps=9)[1].total_steps == 9


@pytest.mark.parametrize(
    ("batch", "expected"), [(256, 150_000), (448, 150_000), (1536, 150_000), (3072, 175_000), (8192, 225_000)]
)
def test_evaluation_cadence_is_mlperfs_rule(tmp_path: Path, batch: int, expected: int) -> None:
    """floor(0.05 * (230.23 * GBS + 3,000,000) / 25,000) * 25,000 samples, where the recipe does not say."""
    train = resolved(tmp_path, recipe="mlperf-256", phase=2, global_batch_size=batch)[2]
    assert train.eval_every_samples == expected


def test_every_setting_says_where_it_comes_from() -> None:
    settings = resolve_settings("mlperf-8192", phase=2, precision="fp32", given={"beta_1": 0.5, "seed": None})
    origins = {name: setting.origin for name, setting in settings.items()}
    assert set(origins) == {*SETTINGS, "max_seq_length"}
    assert (settings["beta_1"].value, origins["beta_1"]) == (0.5, "option")
    assert (settings["beta_2"].value, origins["beta_2"]) == (0.88, "recipe mlperf-8192")
    assert (settings["seed"].value, origins["seed"]) == (42, "default")
    assert (settings["total_steps"].value, origins["total_steps"]) == (600, "max_steps")
    assert (settings["max_seq_length"].value, origins["max_seq_length"]) == (512, "phase 2")
    assert settings["eval_every_samples"] == Resolved(225_000, "MLPerf's rule for the global batch size")
    measured = resolve_settings("mlperf-8192", phase=2, precision="fp32", benchmark=True)
    assert measured["max_steps"] == Resolved(60, "--benchmark")


def test_description_of_settings() -> None:
    """A line per origin: what a run's log tells."""
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
        ({"dynamic_masking": True}, "closed division trains on its own records; give --mlperf-division open"),
        ({"optimizer": "adamw"}, "--optimizer adamw: MLPerf's rules for BERT know LAMB alone"),
        ({"benchmark": True}, "--mlperf-log with --benchmark"),
        ({"eval_dir": "none"}, "without evaluation data: give --eval-dir"),
        ({"mlperf_division": "ajar"}, "--mlperf-division is 'ajar', expected one of closed, open"),
        ({"mlperf_status": "x"}, "--mlperf-status is 'x', expected one of onprem, cloud, research"),
        ({"mlperf_log": None, "mlperf_platform": "x"}, "--mlperf-platform is given without --mlperf-log"),
    ],
)
def test_runs_that_cannot_have_an_mlperf_log(tmp_path: Path, given: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        mlperf(tmp_path, **{"mlperf_log": "log", **given})


def test_an_mlperf_log_of_masked_lm_alone_is_open(tmp_path: Path) -> None:
    given = {"architecture": "BertForMaskedLM", "mlperf_log": "log"}
    with pytest.raises(InputError, match=r"--mlperf-log of BertForMaskedLM: .* give --mlperf-division open"):
        mlperf(tmp_path, **given)
    config = mlperf(tmp_path, **given, mlperf_division="open")
    assert config is not None and config.division == "open"


def test_benchmark(tmp_path: Path) -> None:
    """60 steps as in Intel's package, or as many as asked for, without evaluation."""
    (tmp_path / "eval").mkdir()
    data, _, train = resolved(tmp_path, benchmark=True)
    assert (train.benchmark, train.max_steps, data.eval_dir) == (True, 60, None)
    assert resolved(tmp_path, benchmark=True, max_steps=4)[2].max_steps == 4


def test_text_in_place_of_records(tmp_path: Path) -> None:
    """They are made in the output folder, held-out ones too."""
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
    """What lies in the dataset folder, another folder, or none."""
    (tmp_path / "eval").mkdir()
    assert resolved(tmp_path)[0].eval_dir == tmp_path / "eval"
    assert resolved(tmp_path, eval_dir="/elsewhere")[0].eval_dir == Path("/elsewhere")
    assert resolved(tmp_path, eval_dir="none")[0].eval_dir is None


def test_data_options(tmp_path: Path) -> None:
    data = resolved(tmp_path, no_shuffle=True, data_workers=0, max_seq_length=64)[0]
    assert (data.shuffle, data.workers, data.max_seq_length) == (False, 0, 64)


def test_a_recipe_may_set_the_sequence_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over the phase's, and under the option's."""
    recipe = {"max_seq_length": 256, "global_batch_size": 1, "max_steps": 1, "learning_rate": 1.0}
    monkeypatch.setattr("bert_large.train.settings.resolve_recipe", lambda *names, **how: recipe)
    assert resolved(tmp_path)[0].max_seq_length == 256
    assert resolved(tmp_path, max_seq_length=64)[0].max_seq_length == 64


def ranks_settings(*words: str) -> RanksConfig:
    return resolve_ranks(build_parser("pretrain").parse_args(["pretrain", "--dataset-dir=d", "--output-dir=o", *words]))


def test_settings_of_ranks() -> None:
    assert ranks_settings() == RanksConfig(bucket_mb=25.0, gradient_compression="none", zero1=False)
    given = ranks_settings("--bucket-mb=0.5", "--gradient-compression=bf16", "--zero1")
    assert given == RanksConfig(bucket_mb=0.5, gradient_compression="bf16", zero1=True)
    with pytest.raises(InputError, match=r"--bucket-mb is 0\.0, expected > 0 and finite; .*-compression is 'fp8', exp"):
        ranks_settings("--bucket-mb=0", "--gradient-compression=fp8")


@pytest.mark.parametrize("option", ["total_steps", "eval_every_samples", "max_seq_length", "max_steps", "save_every"])
def test_zero_is_refused_not_ignored(tmp_path: Path, option: str) -> None:
    with pytest.raises(InputError, match=rf"--{option.replace('_', '-')} is 0, expected > 0"):
        resolved(tmp_path, **{option: 0})


def test_unknown_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--recipe is 'nvidia', expected one of"):
        resolved(tmp_path, recipe="nvidia")
    with pytest.raises(
        InputError, match=r"PRECISION \(--precision\) is 'fp8', expected one of fp32, avx-fp32, bf16, bf32"
    ):
        resolved(tmp_path, precision="fp8")
    with pytest.raises(InputError, match="--phase is 3, expected 1 or 2"):
        resolved(tmp_path, phase=3)


def test_what_a_recipe_leaves_open_must_be_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bert_large.train.settings.resolve_recipe", lambda *names, **how: {"learning_rate": 1.0})
    with pytest.raises(InputError, match=r"recipe intel does not set --global-batch-size, --max-steps; give it"):
        resolved(tmp_path)


def test_options_are_not_abbreviated(tmp_path: Path) -> None:
    """An option added later must not change what an old command line means."""
    with pytest.raises(SystemExit):
        resolved(tmp_path, "--max-st", "5")
