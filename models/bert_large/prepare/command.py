"""`bert-large prepare`: make pretraining records from text."""

from __future__ import annotations

import argparse
from pathlib import Path

from bert_large.prepare.casing import resolve_casing
from bert_large.prepare.records import make_records
from bert_large.prepare.settings import InstanceSettings, RecordFileSettings, add_settings, from_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `prepare`."""
    parser.add_argument(
        "--input-dir",
        type=Path,
        required=True,
        help="folder of UTF-8 text files, which may be compressed: one sentence per line, blank lines between articles "
        "(`bert-large corpus` makes them from raw text); each becomes one record file",
    )
    parser.add_argument("--vocab-file", type=Path, required=True, help="vocabulary with one token per line")
    parser.add_argument("--output-dir", type=Path, required=True, help="folder for the record files")
    add_settings(parser, RecordFileSettings)
    add_settings(parser, InstanceSettings)
    parser.add_argument(
        "--do-lower-case",
        action=argparse.BooleanOptionalAction,
        help="lowercase the text (default: as tokenizer_config.json beside the vocabulary says, else lowercase it if "
        "that changes no token of the vocabulary)",
    )
    parser.add_argument(
        "--strip-accents",
        action=argparse.BooleanOptionalAction,
        help="strip accents (default: as --do-lower-case if that is given, else found in the same way)",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="make all files again; otherwise complete files are verified and kept, and those of another task refused",
    )


def run(arguments: argparse.Namespace) -> int:
    """Make the records that are missing."""
    settings, files = from_arguments(InstanceSettings, arguments), from_arguments(RecordFileSettings, arguments)
    print(
        make_records(
            arguments.input_dir,
            arguments.vocab_file,
            arguments.output_dir,
            settings,
            files,
            casing=resolve_casing(arguments.vocab_file, arguments.do_lower_case, arguments.strip_accents),
            overwrite=arguments.overwrite,
        )
    )
    return 0
