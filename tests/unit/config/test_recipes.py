"""Recipes: the more specific section wins, and the values are those of their sources."""

from __future__ import annotations

import dataclasses
import json
from importlib import resources
from itertools import product
from pathlib import Path

import pytest
from bert_large.cli import build_parser
from bert_large.config import recipes
from bert_large.config.recipes import read_recipe, recipe_names, resolve_recipe, resolve_settings
from bert_large.config.training import PRECISIONS
from bert_large.errors import InputError
from bert_large.optim.schedule import PolynomialSchedule
from bert_large.train.settings import resolve


def schedule_of(name: str, *, phase: int) -> PolynomialSchedule:
    """Return the rate schedule that a recipe resolves to."""
    settings = resolve_settings(name, phase=phase, precision="fp32")
    return PolynomialSchedule(
        **{field.name: settings[field.name].value for field in dataclasses.fields(PolynomialSchedule)}
    )


@pytest.mark.parametrize(
    ("phase", "precision", "batch"),
    [(1, "fp32", 224), (1, "bf16", 448), (2, "fp32", 28), (2, "bf16", 56), (1, "bf32", 224), (1, "avx-fp32", 224)],
)
def test_intels_batch_sizes(phase: int, precision: str, batch: int) -> None:
    """The values of its documentation; its own package never applied the one for bf16."""
    assert resolve_recipe("intel", phase=phase, precision=precision)["global_batch_size"] == batch


@pytest.mark.parametrize("phase", [1, 2])
def test_intels_settings(phase: int) -> None:
    settings = resolve_recipe("intel", phase=phase, precision="bf16")
    settings.pop("global_batch_size")
    assert settings == {
        "optimizer": "lamb", "learning_rate": 3.5e-4, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-6,
        "weight_decay": 0.01, "warmup_steps": 0, "start_warmup_step": 0, "max_steps": 13700, "max_samples": 4_500_000,
        "target_accuracy": 0.72, "eval_every_samples": 150_000,
    }  # fmt: skip


# MLCommons' reference convergence points:
# global batch, rate, steps, warmup steps, start of warmup, beta 1, beta 2, weight decay.
POINTS = [
    (256, 3.5e-4, 13700, 0, 0, 0.9, 0.999, 0.01),
    (448, 4.25e-4, 6700, 0, 0, 0.9, 0.999, 0.01),
    (1536, 2e-3, 2254, 0, 0, 0.66, 0.996, 0.01),
    (3072, 2e-3, 1141, 100, 0, 0.66, 0.998, 0.01),
    (8192, 2.88293e-3, 600, 287, -76, 0.88, 0.88, 0.0166629),
]


@pytest.mark.parametrize(("batch", "rate", "steps", "warmup", "start", "beta_1", "beta_2", "decay"), POINTS)
def test_mlperf_points(
    batch: int, rate: float, steps: int, warmup: int, start: int, beta_1: float, beta_2: float, decay: float
) -> None:
    assert resolve_recipe(f"mlperf-{batch}", phase=2, precision="fp32") == {
        "optimizer": "lamb", "global_batch_size": batch, "learning_rate": rate, "beta_1": beta_1, "beta_2": beta_2,
        "epsilon": 1e-6, "weight_decay": decay, "warmup_steps": warmup, "start_warmup_step": start,
        "max_steps": steps, "target_accuracy": 0.72,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("nodes", "batch", "rate", "steps", "every"), [(8, 2048, 2e-3, 1710, 150_000), (16, 3072, 2.4e-3, 1141, 175_000)]
)
def test_intels_mlperf_submissions(nodes: int, batch: int, rate: float, steps: int, every: int) -> None:
    """The values of its scripts, and the interval between the evaluations of its logs."""
    settings = resolve_settings(f"intel-mlperf-{nodes}-nodes", phase=2, precision="bf16")
    expected = {
        "optimizer": "lamb", "global_batch_size": batch, "learning_rate": rate, "beta_1": 0.66, "beta_2": 0.998,
        "weight_decay": 0.01, "warmup_steps": 0, "max_steps": steps, "total_steps": steps, "target_accuracy": 0.72,
        "eval_every_samples": every,
    }  # fmt: skip
    assert {name: settings[name].value for name in expected} == expected


def test_mlperf_points_are_those_of_mlcommons() -> None:
    """The values in the points file of its own checker."""
    package = resources.files(pytest.importorskip("mlperf_logging"))
    text = package.joinpath("rcp_checker/training_5.0.0/rcps_bert.json").read_text(encoding="utf-8")
    names = {
        "opt_base_learning_rate": "learning_rate", "opt_epsilon": "epsilon", "num_warmup_steps": "warmup_steps",
        "opt_learning_rate_training_steps": "max_steps", "start_warmup_step": "start_warmup_step",
        "opt_lamb_beta_1": "beta_1", "opt_lamb_beta_2": "beta_2", "opt_lamb_weight_decay_rate": "weight_decay",
    }  # fmt: skip
    points = {point["BS"]: point["Hyperparams"] for point in json.loads(text).values()}
    for batch, *_ in POINTS:
        settings = resolve_recipe(f"mlperf-{batch}", phase=2, precision="fp32")
        assert {name: settings[ours] for name, ours in names.items()} == {name: points[batch][name] for name in names}


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        (256, {0: 3.5e-4, 6850: 1.75e-4, 13699: 3.5e-4 / 13700}),
        (448, {0: 4.25e-4, 1675: 3.1875e-4}),
        (1536, {0: 2e-3, 1127: 1e-3}),
        # Warmup is linear from 0, and after it the rate is where decay alone would be: 1 - 100/1141 of the peak.
        (3072, {0: 0.0, 50: 1e-3, 99: 1.98e-3, 100: 2e-3 * 1041 / 1141}),
        # Warmup began 76 steps before the run: step 0 is at 76/287 of it, 210 at 286/287; then 1 - step/600.
        (8192, {0: 2.88293e-3 * 76 / 287, 210: 2.88293e-3 * 286 / 287, 211: 2.88293e-3 * 389 / 600, 300: 1.441465e-3}),
    ],
)
def test_rates_of_mlperf_points(batch: int, expected: dict[int, float]) -> None:
    schedule = schedule_of(f"mlperf-{batch}", phase=2)
    assert {step: schedule.rate(step) for step in expected} == pytest.approx(expected)


@pytest.mark.parametrize(
    ("phase", "batch", "rate", "steps", "fraction", "warmup"),
    [(1, 65_536, 6e-3, 7038, 0.2843, 2001), (2, 32_768, 4e-3, 1563, 0.128, 200)],
)
def test_nvidias_phases(phase: int, batch: int, rate: float, steps: int, fraction: float, warmup: int) -> None:
    assert resolve_recipe(f"nvidia-phase{phase}", phase=phase, precision="bf16") == {
        "optimizer": "lamb", "global_batch_size": batch, "learning_rate": rate, "beta_1": 0.9, "beta_2": 0.999,
        "epsilon": 1e-6, "weight_decay": 0.01, "max_gradient_norm": 1.0, "warmup_steps": warmup, "max_steps": steps,
        "decay_power": 0.5,
    }  # fmt: skip
    assert warmup == round(fraction * steps)
    schedule = schedule_of(f"nvidia-phase{phase}", phase=phase)
    assert schedule.rate(warmup // 2) == pytest.approx(rate / 2, rel=1e-3)
    assert schedule.rate(steps * 2 // 3) == pytest.approx(rate * (1 / 3) ** 0.5, rel=1e-3)
    assert schedule.rate(steps) == 0.0


def test_bert_base() -> None:
    """A million steps under one schedule, whose last tenth is phase 2."""
    first, second = (resolve_recipe("bert-base", phase=phase, precision="fp32") for phase in (1, 2))
    common = {
        "optimizer": "adamw", "global_batch_size": 256, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-6,
        "weight_decay": 0.01, "max_gradient_norm": 1.0, "decay_power": 1.0,
    }  # fmt: skip
    assert first == common | {
        "learning_rate": 1e-4, "warmup_steps": 10_000, "max_steps": 900_000, "total_steps": 1_000_000,
    }  # fmt: skip
    assert second == common | {"learning_rate": 1e-5, "warmup_steps": 0, "max_steps": 100_000}
    whole, end = schedule_of("bert-base", phase=1), schedule_of("bert-base", phase=2)
    assert [whole.rate(step) for step in (0, 5000, 10_000, 500_000)] == pytest.approx([0.0, 5e-5, 9.9e-5, 5e-5])
    for step in (0, 1, 50_000, 99_999):
        assert end.rate(step) == pytest.approx(whole.rate(900_000 + step), rel=1e-9)


@pytest.mark.parametrize(("name", "phase"), [("bert-mini", 1), ("bert-mini", 2), ("bert-tiny", 1), ("bert-tiny", 2)])
def test_small_models_are_trained_as_bert_base(name: str, phase: int) -> None:
    small, base = (resolve_recipe(recipe, phase=phase, precision="fp32") for recipe in (name, "bert-base"))
    assert small == base


def test_distilberts_steps() -> None:
    """Three passes over the text of MLCommons' 512 set, which has it ten times; warmup for a twentieth of them."""
    settings = resolve_recipe("distilbert", phase=2, precision="fp32")
    steps, batch = settings["max_steps"], settings["global_batch_size"]
    assert batch == 4096 and steps == round(3 * 156_726_829 / 10 / batch)
    assert settings["warmup_steps"] == round(0.05 * steps)
    assert schedule_of("distilbert", phase=2).rate(settings["warmup_steps"] // 2) == pytest.approx(2.5e-4)


def test_names_are_sorted_by_number() -> None:
    names = [name for name in recipe_names() if name.startswith("mlperf-")]
    assert names == ["mlperf-256", "mlperf-448", "mlperf-1536", "mlperf-3072", "mlperf-8192"]


def test_a_recipe_of_another_phase_is_refused() -> None:
    with pytest.raises(InputError, match=r"mlperf-448.*phase 2"):
        resolve_recipe("mlperf-448", phase=1, precision="fp32")


def test_every_recipe_is_complete() -> None:
    """Each has its purpose and source, and resolves to checked settings in each of its phases."""
    assert {"intel", "mlperf-256"} <= set(recipe_names())
    for name in recipe_names():
        recipe = read_recipe(name)
        phases = recipe["phases"]
        sections = {f"phase_{phase}{end}" for phase in phases for end in ("", *(f"_{name}" for name in PRECISIONS))}
        about = {"description", "model", "phases", "source", "reached", "settings"}
        assert {"description", "model", "phases", "source"} <= set(recipe) <= about | sections, name
        for phase, precision in product(phases, PRECISIONS):
            options = ["pretrain", "--dataset-dir=d", "--output-dir=o", f"--recipe={name}", f"--phase={phase}"]
            resolve(build_parser("pretrain").parse_args([*options, f"--precision={precision}"]))


def test_unknown_recipe_is_refused() -> None:
    with pytest.raises(InputError, match=r"--recipe is 'nvidia'.*mlperf-256"):
        resolve_recipe("nvidia", phase=1, precision="fp32")


def test_unknown_settings_and_wrong_values_of_a_recipe_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A misspelled setting, or a wrong value, must not be ignored."""
    (tmp_path / "mine.yaml").write_text("description: x\nphases: [1]\nsettings: {learning_rat: 1.0, seed: 1}\n")
    monkeypatch.setattr(recipes.resources, "files", lambda package: tmp_path)
    with pytest.raises(InputError, match=r"mine.* learning_rat$"):
        resolve_recipe("mine", phase=1, precision="fp32")
    (tmp_path / "mine.yaml").write_text(
        "\ufeffdescription: x\nphases: [1]\nsettings: {learning_rate: .inf, seed: 1.5}\n"
    )
    with pytest.raises(InputError, match=r"mine.*--seed is 1\.5.*--learning-rate is inf"):
        resolve_recipe("mine", phase=1, precision="fp32")
