"""`bert-large evaluate`: the figures of a saved model on held-out records."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from pathlib import Path

from bert_large.errors import InputError
from bert_large.train.settings import SETTINGS, add_compute_arguments, add_watch_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--checkpoint-dir", required=True, help="model_save folder")
    parser.add_argument("--eval-dir", required=True, help="folder of held-out records")
    parser.add_argument("--eval-samples", type=int, help="evaluate on the first records only (default: all)")
    tokens = SETTINGS["micro_batch_tokens"].default
    parser.add_argument(
        "--micro-batch-tokens",
        type=int,
        default=tokens,
        help=f"most tokens in one forward pass of a rank (default {tokens})",
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    add_compute_arguments(parser)
    add_watch_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Evaluate and print."""
    from bert_large.config.training import check_precision
    from bert_large.distributed.collectives import Ranks
    from bert_large.distributed.joining import joined_ranks
    from bert_large.engines import resolve_engine
    from bert_large.engines.precision import apply_precision
    from bert_large.model.bert import BertForPreTraining
    from bert_large.model.pretrained import load_model
    from bert_large.observe.console import eval_line
    from bert_large.train.datasets import open_eval_data, resolve_model_config
    from bert_large.train.evaluate import evaluate

    with (
        joined_ranks(arguments.backend, arguments.rank_silence, arguments.rank_timeout) as ranks,
        tempfile.TemporaryDirectory(prefix="bert-large-index-") as index_dir,
    ):
        with ranks.failing_together():
            check_precision(arguments.precision)
            for name in ("eval_samples", "micro_batch_tokens"):
                value = getattr(arguments, name)
                if value is not None and value < 1:
                    raise InputError(f"--{name.replace('_', '-')} is {value}, expected > 0")
            engine, _ = resolve_engine(arguments.engine, arguments.precision)
            config = resolve_model_config(None, arguments.checkpoint_dir, arguments.gelu)
            # Every rank indexes the records for itself: there is no folder that all of them know.
            dataset = open_eval_data(Path(arguments.eval_dir), Path(index_dir), config, Ranks())
            model = BertForPreTraining(config, engine)
            load_model(Path(arguments.checkpoint_dir), model)
        figures = evaluate(
            model,
            dataset,
            ranks=ranks,
            precision=apply_precision(arguments.precision),
            micro_batch_tokens=arguments.micro_batch_tokens,
            samples=arguments.eval_samples,
        )
    if ranks.is_main:
        text = json.dumps(dataclasses.asdict(figures)) if arguments.json else eval_line(figures)
        sys.stdout.write(text + "\n")
    return 0
