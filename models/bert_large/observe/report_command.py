"""`bert-large report`: runs on one page."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bert_large.observe.recorded_run import read_runs
from bert_large.observe.report import write_report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("runs", nargs="+", metavar="OUTPUT_DIR", help="output folders of runs, finished or under way")
    parser.add_argument("--output-file", required=True, help="the HTML page to write")
    parser.add_argument("--png-dir", help="folder for a PNG of each chart (default: none)")


def run(arguments: argparse.Namespace) -> int:
    """Write the page and the pictures, and print where they are."""
    runs = read_runs([Path(folder) for folder in arguments.runs])
    picture_dir = Path(arguments.png_dir) if arguments.png_dir is not None else None
    for path in write_report(runs, Path(arguments.output_file), picture_dir):
        sys.stdout.write(f"{path}\n")
    return 0
