"""`bert-large pretrain`: one rank of a training run."""

from __future__ import annotations

import argparse
import os

from bert_large.config.presets import CONFIGURATIONS
from bert_large.train.settings import (
    BENCHMARK_STEPS,
    PROFILE_STEPS,
    add_compute_arguments,
    add_mlperf_arguments,
    add_ranks_arguments,
    add_settings,
    add_watch_arguments,
)
from bert_large.train.stopping import StopRequest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--phase", type=int, default=1, help="1: 128 tokens, 2: 512 tokens (default 1)")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--dataset-dir", help="folder with seq_128/ and seq_512/, or of shards")
    source.add_argument(
        "--text-dir",
        help="folder of text, as for `bert-large corpus`, of which records are made in OUTPUT_DIR/records first; "
        "articles are held out to evaluate on",
    )
    parser.add_argument(
        "--config-file",
        help=f"bert_config.json, or one of {', '.join(CONFIGURATIONS)}; may be left out with --checkpoint-dir",
    )
    parser.add_argument(
        "--masked-lm-only", action="store_true", help="leave out the next-sentence head, its loss and its figures"
    )
    parser.add_argument("--output-dir", required=True, help="where logs, checkpoints/ and model_save/ go")
    parser.add_argument("--checkpoint-dir", help="model_save folder to start from (default: random weights)")
    parser.add_argument("--eval-dir", help="held-out records, or none (default: eval/ in the dataset folder, if there)")
    parser.add_argument(
        "--vocab-file",
        help="vocab.txt to check against the model and keep with model_save (default: that of --checkpoint-dir; with "
        "--text-dir one is trained from the text, as large as the model's vocab_size at most)",
    )
    parser.add_argument(
        "--do-lower-case",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="whether the text of the records is lowered, without accents; kept with model_save, and what --text-dir "
        "does (default: as the vocabulary, or tokenizer_config.json beside it, says; lowered where it is trained)",
    )
    parser.add_argument(
        "--strip-accents",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="whether accents are stripped from the text of the records (default: as --do-lower-case if that is given, "
        "else as for it)",
    )
    parser.add_argument("--recipe", default="intel", help="named settings, see `bert-large recipes` (default intel)")
    parser.add_argument("--max-seq-length", type=int, help="token slots of the records (default: the phase's)")
    parser.add_argument("--no-shuffle", action="store_true", help="train on records in file order")
    parser.add_argument(
        "--dynamic-masking",
        action="store_true",
        help="draw masks anew for each sample of each epoch, in place of the records' own; needs their vocabulary",
    )
    parser.add_argument("--data-workers", type=int, default=1, help="processes a rank reads ahead with (default 1)")
    parser.add_argument("--bad-records", default="stop", help="damaged training records: stop or skip (default stop)")
    parser.add_argument("--max-bad-records", type=int, default=100, help="how many to skip at most (default 100)")
    parser.add_argument(
        "--resume",
        default="auto",
        help="auto: go on from the last intact checkpoint; never: refuse a folder that holds a run; or the folder of a "
        "checkpoint to go on from (default auto)",
    )
    parser.add_argument(
        "--benchmark",
        action="store_true",
        help=f"measure throughput, over {BENCHMARK_STEPS} steps unless --max-steps is given; nothing is saved",
    )
    parser.add_argument("--profile", action="store_true", help="trace some steps: where does their time go?")
    parser.add_argument("--profile-steps", type=int, help=f"how many steps to trace (default {PROFILE_STEPS})")
    add_ranks_arguments(parser)
    add_watch_arguments(parser)
    add_mlperf_arguments(parser)
    add_compute_arguments(parser)
    add_settings(parser)


def run(arguments: argparse.Namespace) -> int:
    """Train; returns 0, or 128 + the signal that stopped it."""
    stop_request = StopRequest()
    stop_request.listen()
    if arguments.profile:  # the profiler tells of each of its starts unless told not to before torch is imported
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    from bert_large.train.run import pretrain  # torch is imported only here, after the options are parsed

    return pretrain(arguments, stop_request)
