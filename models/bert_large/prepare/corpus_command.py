"""`bert-large corpus`: raw text to text files for both phases, with articles held out for evaluation."""

from __future__ import annotations

import argparse
from pathlib import Path

from bert_large.prepare.corpus import make_corpus
from bert_large.prepare.settings import CorpusSettings, add_settings, from_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `corpus`."""
    parser.add_argument(
        "--input-dir",
        type=Path,
        required=True,
        help="folder of UTF-8 text files, which may be compressed (gzip, bzip2, xz); folders inside and links are "
        "followed, names that start with a dot are left out",
    )
    parser.add_argument(
        "--output-dir", type=Path, required=True, help="folder to make: phase1/ and phase2/ (or both/), eval/"
    )
    add_settings(parser, CorpusSettings)
    parser.add_argument("--overwrite", action="store_true", help="replace a corpus that this command made")


def run(arguments: argparse.Namespace) -> int:
    """Make the corpus, or verify that it is there."""
    settings = from_arguments(CorpusSettings, arguments)
    print(make_corpus(arguments.input_dir, arguments.output_dir, settings, overwrite=arguments.overwrite))
    return 0
