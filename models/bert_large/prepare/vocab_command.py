"""`bert-large vocab`: train a word-piece vocabulary on text."""

from __future__ import annotations

import argparse
from pathlib import Path

from bert_large.prepare.settings import VocabularySettings, add_settings, from_arguments
from bert_large.prepare.vocab import make_vocabulary


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `vocab`."""
    parser.add_argument("--input-dir", type=Path, required=True, help="folder of UTF-8 text files of sentences")
    parser.add_argument("--output-file", type=Path, required=True, help="the vocabulary to write, one token per line")
    add_settings(parser, VocabularySettings)
    parser.add_argument("--overwrite", action="store_true", help="replace the output file if it exists")


def run(arguments: argparse.Namespace) -> int:
    """Train the vocabulary and write it."""
    settings = from_arguments(VocabularySettings, arguments)
    print(make_vocabulary(arguments.input_dir, arguments.output_file, settings, overwrite=arguments.overwrite))
    return 0
