"""`bert-large evaluate`: the metrics of a saved model on held-out records."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bert_large.config.options import CommandParser, add_settings, setting
from bert_large.config.training import Communication, DataConfig, ModelSource, TrainConfig
from bert_large.errors import UserError


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Input and output of `bert-large evaluate`."""

    checkpoint_dir: Path = setting(text="model folder, or OWNER/NAME of a model of the hub", variable="")
    eval_dir: Path = setting(text="folder of held-out records", variable="")
    json: bool = setting(False, "print the metrics as JSON", variable="")


def add_arguments(parser: CommandParser) -> None:
    """Add the options."""
    add_settings(parser, EvaluateOptions)
    add_settings(parser, TrainConfig, only=("eval_samples", "micro_batch_tokens", "precision", "engine"))
    add_settings(parser, ModelSource, only=("gelu",))
    add_settings(parser, DataConfig, only=("index_dir",))
    add_settings(parser, Communication)


def run(arguments: argparse.Namespace) -> int:
    """Evaluate and print."""
    from bert_large.distributed.collectives import Ranks
    from bert_large.distributed.joining import joined_ranks
    from bert_large.engines import resolve_engine
    from bert_large.engines.precision import apply_precision
    from bert_large.hub import model_folder
    from bert_large.model.bert import BertForPreTraining
    from bert_large.model.pretrained import load_model
    from bert_large.observe.console import eval_line
    from bert_large.prepare.tokenizer_files import find_vocab
    from bert_large.train.datasets import check_vocabulary, open_eval_data
    from bert_large.train.evaluate import evaluate
    from bert_large.train.initial_model import resolve_model_config

    with (
        joined_ranks(arguments.backend, arguments.rank_silence, arguments.rank_timeout) as ranks,
        tempfile.TemporaryDirectory(prefix="bert-large-index-") as fallback,
    ):
        with ranks.failing_together():
            engine, _ = resolve_engine(arguments.engine, arguments.precision)
            folder = model_folder(arguments.checkpoint_dir)
            config = resolve_model_config(None, folder, arguments.gelu)
            # Every rank may index the records for itself: ranks may not share a folder.
            dataset = open_eval_data(arguments.eval_dir, arguments.index_dir, config, Ranks(), fallback=Path(fallback))
            model = BertForPreTraining(config, engine)
            check_vocabulary(dataset, find_vocab(folder))
            load_model(folder, model)
        metrics = evaluate(
            model,
            dataset,
            ranks=ranks,
            precision=apply_precision(arguments.precision),
            micro_batch_tokens=arguments.micro_batch_tokens or TrainConfig.micro_batch_tokens,
            samples=arguments.eval_samples,
        )
    if ranks.is_main:
        try:
            text = json.dumps(dataclasses.asdict(metrics), allow_nan=False) if arguments.json else eval_line(metrics)
        except ValueError:
            raise UserError(
                f"the metrics of {arguments.checkpoint_dir} are not finite, expected the weights of a trained model: "
                f"{eval_line(metrics)}"
            ) from None
        sys.stdout.write(text + "\n")
    return 0
