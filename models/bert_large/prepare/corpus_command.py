"""`bert-large corpus`: raw text to text files for both phases, with articles held out for evaluation."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from bert_large.config.options import CommandParser, add_settings, option, setting
from bert_large.prepare.settings import CorpusSettings, from_arguments


@dataclass(frozen=True, kw_only=True)
class CorpusOptions:
    """Input and output of `bert-large corpus`."""

    input_dir: Path = setting(
        text="folder of files of text, which may be compressed (gzip, bzip2, xz, Zstandard); folders inside and links "
        "are followed, names that start with a dot are left out",
        path="input",
    )
    output_dir: Path = option(text="folder to make: phase1/ and phase2/ (or both/), eval/ and manifest.json")
    overwrite: bool = option(False, "replace a corpus that this command made")


def add_arguments(parser: CommandParser) -> None:
    """Add the options of `corpus`."""
    add_settings(parser, CorpusOptions)
    add_settings(parser, CorpusSettings)


def run(arguments: argparse.Namespace) -> int:
    """Make the corpus, or verify that it is there."""
    from bert_large.prepare.corpus import make_corpus  # slow to import, and not needed by `--help`

    settings = from_arguments(CorpusSettings, arguments)
    print(make_corpus(arguments.input_dir, arguments.output_dir, settings, overwrite=arguments.overwrite))
    return 0
