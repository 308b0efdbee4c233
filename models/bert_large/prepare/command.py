"""`bert-large prepare`: make pretraining records from text."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from bert_large.config.options import CommandParser, add_settings, option, setting
from bert_large.errors import InputError
from bert_large.prepare.settings import PACKED, InstanceSettings, RecordFileSettings, from_arguments


@dataclass(frozen=True, kw_only=True)
class PrepareOptions:
    """Inputs and output of `bert-large prepare`."""

    input_dir: Path = option(
        text="folder of UTF-8 text files, which may be compressed, with one sentence per line and blank lines between "
        "articles, as `bert-large corpus` makes them; each becomes one record file"
    )
    vocab_file: Path = setting(
        text="vocabulary with one token per line, or the tokenizer.json of a model",
        path="input",
        alternative="tokenizer",
    )
    tokenizer: Path | None = option(
        None,
        "model whose tokenizer makes the records: its folder, or OWNER/NAME of a model of the hub; vocabulary, added "
        "tokens and treatment of letters are the model's",
    )
    output_dir: Path = option(text="folder for the record files")
    do_lower_case: bool | None = option(
        None,
        "lowercase the text",
        default_text="as tokenizer_config.json beside the vocabulary says; without it, if that changes no token",
    )
    strip_accents: bool | None = option(
        None,
        "strip accents from the text",
        default_text="as --do-lower-case if that is given, otherwise found in the same way",
    )
    overwrite: bool = option(
        False, "make all files again; otherwise complete files are verified and kept, and those of another task refused"
    )


def add_arguments(parser: CommandParser) -> None:
    """Add the options of `prepare`."""
    for settings in (PrepareOptions, RecordFileSettings, InstanceSettings):
        add_settings(parser, settings)


def run(arguments: argparse.Namespace) -> int:
    """Make the records that are missing."""
    # Slow to import, and not needed by `--help`.
    from bert_large.prepare.casing import resolve_casing
    from bert_large.prepare.records import make_records
    from bert_large.prepare.tokenizer_files import vocab_of_model
    from bert_large.storage.atomic import continuing_when_repeated

    if arguments.sequences == PACKED and "short_seq_prob" in arguments.origins:
        raise InputError("--short-seq-prob cannot be given with --sequences packed, whose sequences are full")
    settings, files = from_arguments(InstanceSettings, arguments), from_arguments(RecordFileSettings, arguments)
    options = from_arguments(PrepareOptions, arguments)
    vocab_file = options.vocab_file if options.tokenizer is None else vocab_of_model(options.tokenizer)
    casing = resolve_casing(vocab_file, options.do_lower_case, options.strip_accents)
    paths = options.input_dir, vocab_file, options.output_dir
    with continuing_when_repeated(not options.overwrite):
        print(make_records(*paths, settings, files, casing=casing, overwrite=options.overwrite))
    return 0
