"""`bert-large vocab`: train a word-piece vocabulary from text."""

from __future__ import annotations

import argparse
from pathlib import Path

from bert_large.prepare.files import check_outputs, list_input_files
from bert_large.prepare.vocab import train_vocab, write_vocab


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `vocab`."""
    parser.add_argument("--input-dir", type=Path, required=True, help="folder of UTF-8 text files")
    parser.add_argument("--output-file", type=Path, required=True, help="the vocabulary to write, a word piece a line")
    parser.add_argument("--vocab-size", type=int, default=30522, help="tokens at most (default %(default)s)")
    parser.add_argument(
        "--min-frequency",
        type=int,
        default=2,
        help="how often two pieces must occur together to become one (default %(default)s)",
    )
    parser.add_argument(
        "--do-lower-case",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="lower letters and strip accents (the default); --no-do-lower-case makes a cased vocabulary",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the output file if it exists")


def run(arguments: argparse.Namespace) -> int:
    """Train the vocabulary, write it and say its size."""
    files = list_input_files(arguments.input_dir)
    check_outputs([arguments.output_file], input_dir=arguments.input_dir, overwrite=arguments.overwrite)
    tokens = train_vocab(
        files,
        vocab_size=arguments.vocab_size,
        min_frequency=arguments.min_frequency,
        do_lower_case=arguments.do_lower_case,
    )
    write_vocab(arguments.output_file, tokens)
    print(f"wrote {len(tokens)} of at most {arguments.vocab_size} tokens to {arguments.output_file}")
    return 0
