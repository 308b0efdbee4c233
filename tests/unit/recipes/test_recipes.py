"""Recipes: settings as data, the more specific section first."""

from __future__ import annotations

from pathlib import Path

import pytest
from bert_large import recipes
from bert_large.errors import InputError
from bert_large.recipes import read_recipe, recipe_names, resolve_recipe
from bert_large.train.settings import SETTINGS

KNOWN = {*SETTINGS, "max_seq_length"}


@pytest.mark.parametrize(
    ("phase", "precision", "batch"),
    [(1, "fp32", 224), (1, "bf16", 448), (2, "fp32", 28), (2, "bf16", 56), (1, "bf32", 224), (1, "avx-fp32", 224)],
)
def test_intels_batch_sizes(phase: int, precision: str, batch: int) -> None:
    """As its documentation has them; in its own package bf16's never applied."""
    assert resolve_recipe("intel", phase=phase, precision=precision, known=KNOWN)["global_batch_size"] == batch


@pytest.mark.parametrize("phase", [1, 2])
def test_intels_settings(phase: int) -> None:
    settings = resolve_recipe("intel", phase=phase, precision="bf16", known=KNOWN)
    settings.pop("global_batch_size")
    assert settings == {
        "optimizer": "lamb", "learning_rate": 3.5e-4, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-6,
        "weight_decay": 0.01, "warmup_steps": 0, "start_warmup_step": 0, "max_steps": 13700, "max_samples": 4_500_000,
        "target_accuracy": 0.72, "eval_every_samples": 150_000,
    }  # fmt: skip


def test_mlperf_256() -> None:
    settings = resolve_recipe("mlperf-256", phase=2, precision="fp32", known=KNOWN)
    assert settings == {
        "optimizer": "lamb", "global_batch_size": 256, "learning_rate": 3.5e-4, "beta_1": 0.9, "beta_2": 0.999,
        "epsilon": 1e-6, "weight_decay": 0.01, "warmup_steps": 0, "start_warmup_step": 0, "max_steps": 13700,
        "target_accuracy": 0.72,
    }  # fmt: skip


def test_every_recipe_is_whole() -> None:
    """All sections of all recipes hold known settings, that the options would take too, and a description."""
    assert {"intel", "mlperf-256"} <= set(recipe_names())
    for name in recipe_names():
        assert read_recipe(name)["description"]
        for phase in (1, 2):
            for precision in ("fp32", "avx-fp32", "bf16", "bf32"):
                for setting, value in resolve_recipe(name, phase=phase, precision=precision, known=KNOWN).items():
                    read = SETTINGS[setting].type if setting in SETTINGS else int
                    assert read(str(value).lower()) == value, (name, setting, value)


def test_unknown_recipe_is_refused() -> None:
    with pytest.raises(InputError, match=r"--recipe is 'nvidia', expected one of .*intel, mlperf-256"):
        resolve_recipe("nvidia", phase=1, precision="fp32", known=KNOWN)


def test_a_recipes_unknown_setting_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelt setting must not be ignored."""
    (tmp_path / "mine.yaml").write_text("description: x\nsettings: {learning_rat: 1.0, seed: 1}\n")
    monkeypatch.setattr(recipes.resources, "files", lambda package: tmp_path)
    with pytest.raises(InputError, match=r"recipe mine has unknown settings learning_rat$"):
        resolve_recipe("mine", phase=1, precision="fp32", known=KNOWN)
