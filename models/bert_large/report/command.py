"""`bert-large report`: one HTML page on one or more runs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bert_large.errors import InputError

REPORT_FILE = "report.html"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("runs", nargs="+", metavar="OUTPUT_DIR", help="output folders of runs, finished or running")
    page = f"the HTML page to write (default: {REPORT_FILE} in the first OUTPUT_DIR)"
    parser.add_argument("--output-file", help=page)
    parser.add_argument("--png-dir", help="folder for a PNG of each chart (default: none)")


def run(arguments: argparse.Namespace) -> int:
    """Write the page and the pictures, and print their paths."""
    from bert_large.report.recorded_run import read_runs  # imports torch, which `--help` does not wait for
    from bert_large.report.report import write_report

    folders = [Path(folder) for folder in arguments.runs]
    runs = read_runs(folders)
    page = folders[0] / REPORT_FILE if arguments.output_file is None else Path(arguments.output_file)
    picture_dir = Path(arguments.png_dir) if arguments.png_dir is not None else None
    if page.is_dir():
        raise InputError(f"--output-file {page} is a folder, expected a file, such as {page / REPORT_FILE}")
    for path in write_report(runs, page, picture_dir):
        sys.stdout.write(f"{path}\n")
    return 0
