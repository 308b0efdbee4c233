"""Recipes: named sets of hyperparameters, one YAML file each beside this module."""

from __future__ import annotations

from collections.abc import Collection
from importlib import resources
from typing import Any

import yaml

from bert_large.errors import InputError


def recipe_names() -> list[str]:
    """Return the names of all recipes."""
    files = resources.files(__name__).iterdir()
    return sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml"))


def read_recipe(name: str) -> dict[str, Any]:
    """Return a recipe's file as it stands."""
    if name not in recipe_names():
        raise InputError(f"--recipe is {name!r}, expected one of {', '.join(recipe_names())}")
    return yaml.safe_load(resources.files(__name__).joinpath(f"{name}.yaml").read_text(encoding="utf-8"))


def resolve_recipe(name: str, *, phase: int, precision: str, known: Collection[str]) -> dict[str, Any]:
    """Return a recipe's settings for a phase and a precision; the more specific section wins."""
    recipe = read_recipe(name)
    settings: dict[str, Any] = {}
    for section in ("settings", f"phase_{phase}", f"phase_{phase}_{precision}"):
        settings |= recipe.get(section, {})
    unknown = sorted(set(settings) - set(known))
    if unknown:
        raise InputError(f"recipe {name} has unknown settings {', '.join(unknown)}")
    return settings
