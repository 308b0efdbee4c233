"""`bert-large recipes`: list the recipes, or show the settings that follow from one."""

from __future__ import annotations

import argparse
import sys

from bert_large.config.options import CommandParser, add_settings, describe_value
from bert_large.config.recipes import read_recipe, recipe_names, resolve_settings
from bert_large.config.training import TrainConfig
from bert_large.tables import format_table


def add_arguments(parser: CommandParser) -> None:
    """Add the options."""
    parser.add_argument("name", nargs="?", help="show this recipe's settings (default: list all recipes)")
    add_settings(parser, TrainConfig, only=("precision",))


def run(arguments: argparse.Namespace) -> int:
    """Print one line per recipe and phase, or one recipe."""
    text = _list(arguments.precision) if arguments.name is None else _show(arguments.name, arguments.precision)
    sys.stdout.write(text + "\n")
    return 0


def _list(precision: str) -> str:
    rows = [("recipe", "model", "phase", "batch", "rate", "steps", "for")]
    for name in recipe_names():
        recipe = read_recipe(name)
        for phase in recipe["phases"]:
            settings = resolve_settings(name, phase=phase, precision=precision)
            batch, rate, steps, hours = (
                settings[setting].value for setting in ("global_batch_size", "learning_rate", "max_steps", "max_hours")
            )
            length = str(steps) if hours is None else f"{hours:g} hours"
            rows.append((name, recipe["model"], str(phase), str(batch), str(rate), length, recipe["description"]))
    return format_table(rows, left=len(rows[0]))


def _show(name: str, precision: str) -> str:
    recipe = read_recipe(name)
    lines = [f"{name}: {recipe['description']}"]
    lines += [f"{about}: {recipe[about]}" for about in ("model", "source", "reached") if about in recipe]
    for phase in recipe["phases"]:
        settings = resolve_settings(name, phase=phase, precision=precision)
        rows = [(setting, describe_value(resolved.value), resolved.origin) for setting, resolved in settings.items()]
        lines += [f"\nphase {phase}, {precision}", format_table(rows, left=3)]
    return "\n".join(lines)
