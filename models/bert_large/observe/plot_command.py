"""`bert-large plot`: loss curves of runs as a PNG."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bert_large.observe.plot import plot_runs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("runs", nargs="+", metavar="OUTPUT_DIR", help="output folders of runs, labelled by their names")
    parser.add_argument("--output-file", required=True, help="the PNG to write")


def run(arguments: argparse.Namespace) -> int:
    """Draw."""
    plot_runs({Path(folder).resolve().name: Path(folder) for folder in arguments.runs}, Path(arguments.output_file))
    sys.stdout.write(f"{arguments.output_file}\n")
    return 0
