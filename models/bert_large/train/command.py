"""`bert-large pretrain`: one rank of a training run."""

from __future__ import annotations

import argparse
import os

from bert_large.config import training
from bert_large.config.options import CommandParser, add_settings
from bert_large.train.stopping import StopRequest


def add_arguments(parser: CommandParser) -> None:
    """Add the options."""
    add_settings(parser, training.RunOptions, title="recipe and profile")
    add_settings(parser, training.TrainConfig, title="training")
    add_settings(parser, training.ModelSource, title="model")
    add_settings(parser, training.DataConfig, title="data")
    add_settings(parser, training.OptimConfig, title="optimizer")
    add_settings(parser, training.RanksConfig, title="several ranks")
    add_settings(parser, training.Communication, title="communication and failures")
    add_settings(parser, training.MlperfConfig, title="MLPerf log")
    parser.checks.append(_find_conflicts)


def _find_conflicts(arguments: argparse.Namespace) -> list[str]:
    from bert_large.train.settings import find_conflicts  # imports numpy and h5py, which `--help` does not need

    return find_conflicts(arguments)


def run(arguments: argparse.Namespace) -> int:
    """Train; returns 0, or 128 plus the number of the signal that stopped it."""
    stop_request = StopRequest()
    stop_request.listen()
    if arguments.profile:  # read when torch is imported: without it the profiler prints a line at each of its starts
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    from bert_large.train.run import pretrain  # imports torch

    return pretrain(arguments, stop_request)
