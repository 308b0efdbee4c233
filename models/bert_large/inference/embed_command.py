"""`bert-large embed`: embeddings of the texts of a file."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bert_large.config.options import CommandParser, add_settings, option
from bert_large.errors import InputError
from bert_large.extras import import_extra
from bert_large.inference.settings import BATCH_TOKENS, FIELD, POOLINGS, InferenceOptions

if TYPE_CHECKING:
    from bert_large.inference.embedder import Embedder


@dataclass(frozen=True, kw_only=True)
class EmbedOptions:
    """Input, output and kind of the embeddings."""

    input_file: str = option(text="texts: one per line, or .jsonl, .csv or .tsv with --field; - is standard input")
    output_file: Path = option(text=".npy file for the embeddings, one row per text, or .parquet file, also of texts")
    overwrite: bool = option(False, "replace the output file if it exists")
    field: str | None = option(None, "field of the texts", default_text=FIELD)
    pooling: str | None = option(
        None,
        "mean of a text's tokens, its first token, or the model's pooler",
        choices=POOLINGS,
        default_text="as sentence-transformers' modules.json says, or else mean",
    )
    normalize: bool | None = option(
        None, "scale embeddings to an L2 norm of 1", default_text="as modules.json says, or else false", deferred=True
    )
    max_length: int | None = option(
        None,
        "tokens of a text, beyond which it is truncated",
        within="[3, 65536]",
        default_text="as sentence-transformers' configuration says, or else the model's positions",
    )
    batch_tokens: int = option(BATCH_TOKENS, "tokens of a batch, or one text if it has more", within="[1, 1048576]")


def add_arguments(parser: CommandParser) -> None:
    """Add the options."""
    add_settings(parser, InferenceOptions)
    add_settings(parser, EmbedOptions)


def run(arguments: argparse.Namespace) -> int:
    """Compute and write the embeddings, or continue where an interrupted command stopped."""
    from bert_large.observe.progress import Progress

    _check_output(arguments)
    import_extra("embed", "inference", "transformers")
    from bert_large.engines.precision import apply_precision
    from bert_large.inference.embedder import load_embedder
    from bert_large.inference.embedding_file import EmbeddingFile, chunks
    from bert_large.inference.pooling import read_pooling
    from bert_large.inference.texts import read_texts
    from bert_large.storage.atomic import continuing_when_repeated

    total = 0
    if Path(arguments.input_file).is_file():  # wrong rows are found before any work starts
        total = sum(1 for _ in read_texts(arguments.input_file, arguments.field))
    embedder = load_embedder(
        arguments.checkpoint_dir,
        engine=arguments.engine,
        precision=apply_precision(arguments.precision),
        pooling=read_pooling(arguments.checkpoint_dir, arguments.pooling, arguments.normalize),
        max_length=arguments.max_length,
        batch_tokens=arguments.batch_tokens,
        vocab_file=arguments.vocab_file,
        do_lower_case=arguments.do_lower_case,
    )
    _note(embedder.engine)
    identity = _identity(arguments, embedder)
    with (
        continuing_when_repeated(),
        EmbeddingFile(arguments.output_file, embedder.dimension, identity, _note) as file,
    ):
        texts = read_texts(arguments.input_file, arguments.field)
        if file.rows:
            file.skip_finished(texts)
            _note(f"continuing after {file.rows} texts")
        started, before = time.monotonic(), file.rows
        with Progress(total, "texts", initial=before, description="embedded", write=_note) as progress:
            for chunk in chunks(texts):
                file.append(chunk, embedder(chunk, progress.advance))
        speed = (file.rows - before) / max(time.monotonic() - started, 1e-9)
        file.publish(lambda: read_texts(arguments.input_file, arguments.field))
        rows = file.rows
    pooling = embedder.pooling
    kind = f"{pooling.mode} pooling{', normalized' * pooling.normalize}, texts of up to {embedder.max_length} tokens"
    print(
        f"wrote {arguments.output_file}: {rows} embeddings of {embedder.dimension} values ({kind}); {speed:.1f} texts/s"
    )
    return 0


def _check_output(arguments: argparse.Namespace) -> None:
    from bert_large.inference.embedding_file import PARQUET, SUFFIXES
    from bert_large.storage.output_folder import make_folder

    path = arguments.output_file
    if path.suffix not in SUFFIXES:
        raise InputError(f"--output-file is {path}, expected a name that ends in {' or '.join(SUFFIXES)}")
    if path.exists() and not (arguments.overwrite and path.is_file()):
        raise InputError(f"--output-file {path} exists; give another name, or --overwrite to replace a file")
    if path.suffix == PARQUET:
        if not Path(arguments.input_file).is_file():
            raise InputError(
                f"--input-file is {arguments.input_file}, expected a file, because texts are read twice for {path}; or "
                "give --output-file FILE.npy"
            )
        import_extra(f"--output-file {path}", "inference", "pyarrow.parquet")
    make_folder(path.parent)


def _identity(arguments: argparse.Namespace, embedder: Embedder) -> dict[str, Any]:
    """Return everything that an embedding depends on beside its text, as JSON values."""
    import google_crc32c

    from bert_large.model.pretrained import check_model_folder
    from bert_large.model.weight_files import weight_shards
    from bert_large.storage.atomic import crc32c_of

    weights = check_model_folder(arguments.checkpoint_dir / embedder.pooling.transformer)
    tokenizer = embedder.tokenizer.backend_tokenizer.to_str().encode()
    return {
        "model": "-".join(map(crc32c_of, weight_shards(weights))),
        "tokenizer": f"{google_crc32c.value(tokenizer):08x}",
        "precision": embedder.precision.name,
        "engine": embedder.engine.partition(":")[0].removeprefix("engine "),
        **dataclasses.asdict(embedder.pooling),
        "max_length": embedder.max_length,
        "batch_tokens": embedder.batch_tokens,
    }


def _note(text: str) -> None:
    print(text, file=sys.stderr)
