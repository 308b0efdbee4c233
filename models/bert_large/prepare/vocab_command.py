"""`bert-large vocab`: train a WordPiece vocabulary on text."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from bert_large.config.options import add_settings, option
from bert_large.prepare.settings import VocabularySettings, from_arguments


@dataclass(frozen=True, kw_only=True)
class VocabOptions:
    """Input and output of `bert-large vocab`."""

    input_dir: Path = option(text="folder of UTF-8 text files of sentences")
    output_file: Path = option(text="vocabulary file to write, one token per line")
    overwrite: bool = option(False, "replace the output file if it exists")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `vocab`."""
    add_settings(parser, VocabOptions)
    add_settings(parser, VocabularySettings)


def run(arguments: argparse.Namespace) -> int:
    """Train the vocabulary and write it."""
    from bert_large.prepare.vocab import make_vocabulary  # slow to import, and not needed by `--help`

    settings = from_arguments(VocabularySettings, arguments)
    print(make_vocabulary(arguments.input_dir, arguments.output_file, settings, overwrite=arguments.overwrite))
    return 0
