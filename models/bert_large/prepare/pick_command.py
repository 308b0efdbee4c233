"""`bert-large pick`: pick evenly spaced records, as for MLCommons' evaluation set."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from bert_large.config.options import add_settings, setting
from bert_large.prepare.files import check_outputs, list_input_files
from bert_large.prepare.pick import pick_records


@dataclass(frozen=True, kw_only=True)
class PickOptions:
    """Settings of `bert-large pick`."""

    input_dir: Path = setting(text="folder of record files, read one after another in sorted order", variable="")
    output_file: Path = setting(text="record file to write, such as eval_10k", variable="")
    count: int = setting(10000, "number of records to pick", within="[1, inf)", variable="EVAL_RECORDS")
    allow_fewer: bool = setting(
        False, "take all records if there are not more than --count; without it, that is an error", variable=""
    )
    overwrite: bool = setting(False, "replace the output file if it exists", variable="")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `pick`."""
    add_settings(parser, PickOptions)


def run(arguments: argparse.Namespace) -> int:
    """Pick the records and say of how many."""
    files = list_input_files(arguments.input_dir)
    check_outputs([arguments.output_file], input_dir=arguments.input_dir, overwrite=arguments.overwrite)
    picked, total = pick_records(files, arguments.output_file, arguments.count, allow_fewer=arguments.allow_fewer)
    print(f"wrote {picked} of {total} records to {arguments.output_file}")
    return 0
