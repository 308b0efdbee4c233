"""`bert-large pick`: pick evenly spaced records, as for MLCommons' evaluation set."""

from __future__ import annotations

import argparse
from pathlib import Path

from bert_large.prepare.pick import pick_records


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `pick`."""
    parser.add_argument("--input-dir", type=Path, required=True, help="folder of record files, read in sorted order")
    parser.add_argument("--output-file", type=Path, required=True, help="the record file to write, such as eval_10k")
    parser.add_argument("--count", type=int, default=10000, help="records to pick (default %(default)s)")
    parser.add_argument(
        "--allow-fewer",
        action="store_true",
        help="pick all records if there are fewer than --count; otherwise an error",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the output file if it exists")


def run(arguments: argparse.Namespace) -> int:
    """Pick the records."""
    print(
        pick_records(
            arguments.input_dir,
            arguments.output_file,
            arguments.count,
            allow_fewer=arguments.allow_fewer,
            overwrite=arguments.overwrite,
        )
    )
    return 0
