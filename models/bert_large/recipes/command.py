"""`bert-large recipes`: list the recipes."""

from __future__ import annotations

import argparse
import sys

from bert_large.recipes import read_recipe, recipe_names


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """There are none."""


def run(arguments: argparse.Namespace) -> int:
    """Print a line per recipe."""
    width = max(map(len, recipe_names()))
    for name in recipe_names():
        sys.stdout.write(f"{name:{width}}  {read_recipe(name)['description']}\n")
    return 0
