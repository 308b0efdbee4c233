"""`bert-large vocab`: train a word-piece vocabulary from text."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from bert_large.config.options import add_settings, setting
from bert_large.prepare.files import check_outputs, list_input_files
from bert_large.prepare.vocab import train_vocab, write_vocab


@dataclass(frozen=True, kw_only=True)
class VocabOptions:
    """Settings of `bert-large vocab`."""

    input_dir: Path = setting(text="folder of UTF-8 text files", variable="")
    output_file: Path = setting(text="vocabulary file to write, one word piece per line", variable="")
    vocab_size: int = setting(30522, "largest number of tokens", within="[1, 100000000]")
    min_frequency: int = setting(
        2, "how often two pieces must occur together to be merged", within="[1, inf)", variable=""
    )
    do_lower_case: bool = setting(True, "convert text to lower case and strip accents", variable="")
    overwrite: bool = setting(False, "replace the output file if it exists", variable="")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `vocab`."""
    add_settings(parser, VocabOptions)


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
