"""`bert-large recipes`: list the recipes, or show what one makes of every setting."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence

from bert_large.config.recipes import read_recipe, recipe_names
from bert_large.config.training import PRECISIONS
from bert_large.train.settings import describe_value, resolve_settings

_HEADER = ("recipe", "model", "phase", "batch", "rate", "steps", "for")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("name", nargs="?", help="show this recipe's settings (default: list all recipes)")
    parser.add_argument("--precision", default="fp32", choices=PRECISIONS, help="resolve for this (default fp32)")


def run(arguments: argparse.Namespace) -> int:
    """Print a line per recipe and phase, or one recipe."""
    lines = _list(arguments.precision) if arguments.name is None else _show(arguments.name, arguments.precision)
    sys.stdout.writelines(f"{line}\n" for line in lines)
    return 0


def _list(precision: str) -> Iterator[str]:
    rows = []
    for name in recipe_names():
        recipe = read_recipe(name)
        for phase in recipe["phases"]:
            settings = resolve_settings(name, phase=phase, precision=precision)
            batch, rate, steps = (
                str(settings[setting].value) for setting in ("global_batch_size", "learning_rate", "max_steps")
            )
            rows.append((name, recipe["model"], str(phase), batch, rate, steps, recipe["description"]))
    return _table([_HEADER, *rows])


def _show(name: str, precision: str) -> Iterator[str]:
    recipe = read_recipe(name)
    yield f"{name}: {recipe['description']}"
    for about in ("model", "source", "reached"):
        if about in recipe:
            yield f"{about}: {recipe[about]}"
    for phase in recipe["phases"]:
        yield f"\nphase {phase}, {precision}"
        settings = resolve_settings(name, phase=phase, precision=precision)
        yield from _table([(setting, describe_value(value.value), value.origin) for setting, value in settings.items()])


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield rows with their columns, but for the last, padded to one width."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
