"""`bert-large pick`: pick evenly spaced records, as for MLCommons' evaluation set."""

from __future__ import annotations

import argparse
from pathlib import Path

from bert_large.prepare.files import check_outputs, list_input_files
from bert_large.prepare.pick import pick_records


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `pick`."""
    parser.add_argument(
        "--input-dir", type=Path, required=True, help="folder of record files, taken one after another in sorted order"
    )
    parser.add_argument("--output-file", type=Path, required=True, help="the record file to write (such as eval_10k)")
    parser.add_argument("--count", type=int, default=10000, help="records to pick (default %(default)s)")
    parser.add_argument(
        "--allow-fewer", action="store_true", help="take all records if there are no more than --count; else an error"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the output file if it exists")


def run(arguments: argparse.Namespace) -> int:
    """Pick the records and say of how many."""
    files = list_input_files(arguments.input_dir)
    check_outputs([arguments.output_file], input_dir=arguments.input_dir, overwrite=arguments.overwrite)
    picked, total = pick_records(files, arguments.output_file, arguments.count, allow_fewer=arguments.allow_fewer)
    print(f"wrote {picked} of {total} records to {arguments.output_file}")
    return 0
