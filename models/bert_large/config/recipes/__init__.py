"""Recipes: named sets of hyperparameters, one YAML file each beside this module.

A file has a `description` (what it is for), the `model` and the `phases` it was made for, its `source`, what it
`reached` where the source reports that, and settings: `settings`, then `phase_N`, then `phase_N_PRECISION`, the more
specific section winning.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from importlib import resources
from typing import Any

import yaml

from bert_large.errors import InputError


def recipe_names() -> list[str]:
    """Return the names of all recipes, numbers in them in numerical order."""
    files = resources.files(__name__).iterdir()
    names = [file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml")]
    return sorted(names, key=lambda name: re.sub(r"\d+", lambda number: number[0].zfill(9), name))


def read_recipe(name: str) -> dict[str, Any]:
    """Return a recipe's file as it stands."""
    if name not in recipe_names():
        raise InputError(f"--recipe is {name!r}, expected one of {', '.join(recipe_names())}")
    return yaml.safe_load(resources.files(__name__).joinpath(f"{name}.yaml").read_text(encoding="utf-8"))


def resolve_recipe(name: str, *, phase: int, precision: str, known: Collection[str]) -> dict[str, Any]:
    """Return a recipe's settings for a phase and a precision; the more specific section wins."""
    recipe = read_recipe(name)
    if phase not in recipe["phases"]:
        phases = " and ".join(map(str, recipe["phases"]))
        raise InputError(f"recipe {name} is for phase {phases}, --phase is {phase}; choose another phase or recipe")
    settings: dict[str, Any] = {}
    for section in ("settings", f"phase_{phase}", f"phase_{phase}_{precision}"):
        settings |= recipe.get(section, {})
    unknown = sorted(set(settings) - set(known))
    if unknown:
        raise InputError(f"recipe {name} has unknown settings {', '.join(unknown)}")
    return settings
