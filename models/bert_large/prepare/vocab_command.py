"""`bert-large vocab`: train a WordPiece vocabulary on text."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from bert_large.config.options import CommandParser, add_settings, check_options, option, settings_of
from bert_large.errors import InputError
from bert_large.prepare.settings import VocabularySettings, from_arguments


@dataclass(frozen=True, kw_only=True)
class VocabOptions:
    """Input and output of `bert-large vocab`."""

    input_dir: Path = option(text="folder of UTF-8 text files of sentences")
    output_file: Path = option(text="vocabulary file to write, one token per line")
    extend_vocab: int | None = option(
        None, "add this many tokens of the text to the vocabulary of --tokenizer", within="[1, 1000000]"
    )
    tokenizer: Path | None = option(
        None, "with --extend-vocab: model folder, OWNER/NAME of a model of the hub, or vocab.txt"
    )
    overwrite: bool = option(False, "replace the output file if it exists")


def add_arguments(parser: CommandParser) -> None:
    """Add the options of `vocab`."""
    add_settings(parser, VocabOptions)
    add_settings(parser, VocabularySettings)


def run(arguments: argparse.Namespace) -> int:
    """Train the vocabulary and write it."""
    from bert_large.prepare.vocab import make_vocabulary  # slow to import, and not needed by `--help`

    if arguments.extend_vocab is not None or arguments.tokenizer is not None:
        print(_extend(arguments))
        return 0
    settings = from_arguments(VocabularySettings, arguments)
    print(make_vocabulary(arguments.input_dir, arguments.output_file, settings, overwrite=arguments.overwrite))
    return 0


def _extend(arguments: argparse.Namespace) -> str:
    """Extend the vocabulary of a model: its letters are treated as before, and its tokens keep their ids."""
    from bert_large.prepare.casing import resolve_casing
    from bert_large.prepare.extended_vocab import make_extended_vocabulary
    from bert_large.prepare.tokenizer_files import vocab_of_model

    check_options(arguments, "--extend-vocab", ("extend_vocab", "tokenizer"), ())
    own = [item.option for item in settings_of(VocabularySettings) if item.attribute in arguments.origins]
    if own:
        raise InputError(f"--{own[0]} cannot be given with --extend-vocab: the model's tokenizer decides it")
    vocab_file = vocab_of_model(arguments.tokenizer)
    return make_extended_vocabulary(
        arguments.input_dir, vocab_file, arguments.output_file, arguments.extend_vocab,
        casing=resolve_casing(vocab_file), overwrite=arguments.overwrite,
    )  # fmt: skip
