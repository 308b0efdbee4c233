"""`bert-large pick`: pick evenly spaced records, as for MLCommons' evaluation set."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from bert_large.config.options import CommandParser, add_settings, option, setting
from bert_large.prepare.settings import from_arguments


@dataclass(frozen=True, kw_only=True)
class PickOptions:
    """Settings of `bert-large pick`."""

    input_dir: Path = option(text="folder of record files, read in sorted order")
    output_file: Path = option(text="record file to write, such as eval_10k")
    count: int = setting(10000, "number of records to pick", within="[1, inf)", variable="EVAL_RECORDS")
    allow_fewer: bool = option(False, "pick all records if there are fewer than --count; otherwise that is an error")
    overwrite: bool = option(False, "replace the output file if it exists")


def add_arguments(parser: CommandParser) -> None:
    """Add the options of `pick`."""
    add_settings(parser, PickOptions)


def run(arguments: argparse.Namespace) -> int:
    """Pick the records."""
    from bert_large.prepare.pick import pick_records  # slow to import, and not needed by `--help`

    print(pick_records(**vars(from_arguments(PickOptions, arguments))))
    return 0
