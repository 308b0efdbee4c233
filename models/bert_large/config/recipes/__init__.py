"""Recipes: named sets of hyperparameters, one YAML file each beside this module, and the settings that follow from one.

A file has a `description` (its purpose), the `model` and the `phases` it was made for, its `source`, the result it
`reached` where the source reports one, and settings in the sections `settings`, `phase_N` and `phase_N_PRECISION`.
A more specific section wins. An option or variable wins over the recipe, the recipe over a setting's default.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import resources
from typing import Any

from bert_large.config.options import describe_value, find_nearest, find_problems
from bert_large.config.resolved import Resolved, resolve_length
from bert_large.config.training import (
    PHASE_SEQ_LENGTHS,
    RECIPE_CONFIGS,
    RECIPE_SETTINGS,
    reference_eval_every_samples,
)
from bert_large.errors import InputError

_REQUIRED = ("global_batch_size", "max_steps", "learning_rate")


def recipe_names() -> list[str]:
    """Return the names of all recipes, numbers in them in numerical order."""
    files = resources.files(__name__).iterdir()
    names = [file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml")]
    return sorted(names, key=lambda name: re.sub(r"\d+", lambda number: number[0].zfill(9), name))


def read_recipe(name: str) -> dict[str, Any]:
    """Return the content of a recipe's file."""
    import yaml  # not needed to print help

    if name not in recipe_names():
        nearest = find_nearest(name, recipe_names())
        hint = f"; did you mean {nearest}?" if nearest else ""
        raise InputError(f"--recipe is {name!r}, expected one of {', '.join(recipe_names())}{hint}")
    return yaml.safe_load(resources.files(__name__).joinpath(f"{name}.yaml").read_text(encoding="utf-8-sig"))


def resolve_recipe(name: str, *, phase: int, precision: str) -> dict[str, Any]:
    """Return a recipe's settings for a phase and a precision; the more specific section wins."""
    recipe = read_recipe(name)
    if phase not in recipe["phases"]:
        phases = " and ".join(map(str, recipe["phases"]))
        raise InputError(f"recipe {name} is for phase {phases}, --phase is {phase}; choose another phase or recipe")
    settings: dict[str, Any] = {}
    for section in ("settings", f"phase_{phase}", f"phase_{phase}_{precision}"):
        settings |= recipe.get(section, {})
    unknown = sorted(set(settings) - set(RECIPE_SETTINGS))
    if unknown:
        raise InputError(f"recipe {name} has unknown settings {', '.join(unknown)}")
    problems = [problem for config in RECIPE_CONFIGS
                for problem in find_problems(config, settings)]  # fmt: skip
    if problems:
        raise InputError(f"recipe {name}: {'; '.join(problems)}")
    return settings


def resolve_settings(
    recipe: str, *, phase: int, precision: str, benchmark: bool = False, given: Mapping[str, Any] | None = None,
    origins: Mapping[str, str] | None = None,
) -> dict[str, Resolved]:  # fmt: skip
    """Return every setting that a recipe may hold: the `given` value, the recipe's, or the default.

    `origins` has "option" or "variable" for given values; "option" is assumed for others.
    """
    given, origins = given or {}, origins or {}
    settings = {name: Resolved(None if item.default_is_missing else item.default, "default")
                for name, item in RECIPE_SETTINGS.items()}  # fmt: skip
    settings["max_seq_length"] = Resolved(PHASE_SEQ_LENGTHS[phase], f"phase {phase}")
    values = resolve_recipe(recipe, phase=phase, precision=precision)
    settings |= {name: Resolved(value, f"recipe {recipe}") for name, value in values.items()}
    settings |= {name: Resolved(given[name], origins.get(name, "option")) for name in settings
                 if given.get(name) is not None}  # fmt: skip
    resolve_length(settings, benchmark=benchmark)
    missing = [f"--{name.replace('_', '-')}" for name in _REQUIRED if settings[name].value is None]
    if missing:
        raise InputError(f"recipe {recipe} does not set {', '.join(missing)}; give it")
    if settings["eval_every_samples"].value is None:
        every = reference_eval_every_samples(settings["global_batch_size"].value)
        settings["eval_every_samples"] = Resolved(every, "MLPerf's rule for the global batch size")
    return settings


def describe_settings(settings: Mapping[str, Resolved]) -> list[str]:
    """Return one line per origin with its settings, such as `from recipe intel: learning_rate 0.00035, …`."""
    by_origin: dict[str, list[str]] = {}
    for name, setting in settings.items():
        by_origin.setdefault(setting.origin, []).append(f"{name} {describe_value(setting.value)}")
    lines = [f"from {origin}: {', '.join(by_origin[origin])}" for origin in by_origin]
    warmup, total = (settings[name].value if name in settings else 0 for name in ("warmup_steps", "total_steps"))
    if warmup > total:
        lines.append(f"warning: warmup_steps {warmup} exceed total_steps {total}: the learning rate only rises")
    return lines
