"""`bert-large fill-mask`: the most probable tokens for the masked positions of texts."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass

from bert_large.config.options import CommandParser, add_settings, option
from bert_large.errors import InputError
from bert_large.extras import import_extra
from bert_large.inference.settings import FIELD, InferenceOptions
from bert_large.tables import format_table


@dataclass(frozen=True, kw_only=True)
class FillMaskOptions:
    """Options beside the model."""

    input_file: str | None = option(None, "texts: one per line, or .jsonl, .csv or .tsv with --field; - is stdin")
    field: str | None = option(None, "field of the texts", default_text=FIELD)
    top_k: int = option(5, "candidates per masked token", within="[1, 1000]")
    json: bool = option(False, "print one JSON object per text instead of a table")


def add_arguments(parser: CommandParser) -> None:
    """Add the options and the texts."""
    parser.add_argument("texts", nargs="*", metavar="TEXT", help="text with the tokenizer's mask token, such as [MASK]")
    add_settings(parser, InferenceOptions)
    add_settings(parser, FillMaskOptions)


def run(arguments: argparse.Namespace) -> int:
    """Predict and print."""
    if bool(arguments.texts) == (arguments.input_file is not None):
        raise InputError("expected texts on the command line or --input-file, and not both")
    if arguments.texts and arguments.field is not None:
        raise InputError(f"--field is {arguments.field!r}, expected it only with --input-file; leave it out")
    import_extra("fill-mask", "inference", "transformers")
    from bert_large.engines.precision import apply_precision
    from bert_large.inference.fill_mask import MaskFiller
    from bert_large.inference.texts import read_texts

    texts = arguments.texts or list(read_texts(arguments.input_file, arguments.field))
    fill = MaskFiller(
        arguments.checkpoint_dir, engine=arguments.engine, precision=apply_precision(arguments.precision),
        vocab_file=arguments.vocab_file, do_lower_case=arguments.do_lower_case,
    )  # fmt: skip
    print(fill.engine, file=sys.stderr)
    for text, masks in zip(texts, fill(texts, arguments.top_k), strict=True):
        if arguments.json:
            found = [[candidate._asdict() for candidate in candidates] for candidates in masks]
            print(json.dumps({"text": text, "masks": found}, ensure_ascii=False))
            continue
        print(text)
        for number, candidates in enumerate(masks, start=1):
            rows = [[f"mask {number}", f"{probability:.4f}", token] for token, probability in candidates]
            print(format_table(rows, left=3))
    return 0
