"""`bert-large bench`: measure speed on this machine."""

from __future__ import annotations

import argparse
from pathlib import Path

from bert_large.bench.arguments import (
    add_batch_arguments,
    add_model_arguments,
    add_run_arguments,
    global_batch_size,
    measure_and_print,
)
from bert_large.config.numbers import integer, positive_number

_HUGGING_FACE_BATCH_SIZES = {1: 16, 2: 4}
"""Sequences per phase of a padded micro-batch of Hugging Face's model: 2048 tokens, larger ones were not faster."""
_COMPARED = {"step": ["hugging-face", "hugging-face-sdpa"], "train": ["hugging-face"]}
_SUMMARIES = {
    "step": "time the encoder's forward and backward pass against its linear layers' matrix products",
    "train": "time whole optimizer steps on sequences of real lengths, against Hugging Face's padded steps",
    "checkpoint": "time how long training waits while a checkpoint is saved",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the sub-commands."""
    subparsers = parser.add_subparsers(dest="benchmark", required=True, metavar="BENCHMARK")
    add = {"step": _add_step_arguments, "train": _add_train_arguments, "checkpoint": _add_checkpoint_arguments}
    for name, summary in _SUMMARIES.items():
        subparser = subparsers.add_parser(name, help=summary, description=summary, allow_abbrev=False)
        add[name](subparser)


def _add_step_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seq-len", type=integer(1), default=128, help="tokens of every sequence (default 128)")
    parser.add_argument("--batch-size", type=integer(1), default=16, help="sequences (default 16)")
    _add_compare_argument(parser, "step")
    add_run_arguments(parser, 7)
    add_model_arguments(parser, 2, has_heads=False)


def _add_train_arguments(parser: argparse.ArgumentParser) -> None:
    add_batch_arguments(parser)
    parser.add_argument("--steps", type=integer(1), default=1, help="optimizer steps per round (default 1)")
    parser.add_argument("--data-workers", type=integer(0), default=1, help="processes that read ahead (default 1)")
    _add_compare_argument(parser, "train")
    parser.add_argument(
        "--hugging-face-batch-size", type=integer(1), help="sequences of its micro-batches (default 16, phase 2: 4)"
    )
    add_run_arguments(parser, 7)
    add_model_arguments(parser, 12)


def _add_checkpoint_arguments(parser: argparse.ArgumentParser) -> None:
    from bert_large.train.settings import SETTINGS

    save_every = SETTINGS["save_every"].default
    parser.add_argument("--output-dir", default="output", help="a folder on the disk to measure (default output)")
    parser.add_argument(
        "--save-every", type=integer(1), default=save_every, help=f"steps between checkpoints (default {save_every})"
    )
    parser.add_argument(
        "--step-seconds", type=positive_number, help="step time, to compute the share of time spent saving"
    )
    add_run_arguments(parser, 3)
    add_model_arguments(parser, 24)


def _add_compare_argument(parser: argparse.ArgumentParser, benchmark: str) -> None:
    parser.add_argument(
        "--compare",
        nargs="*",
        metavar="NAME",
        default=_COMPARED[benchmark],
        help="variants that take turns with the engine: eager, native, ipex, and Hugging Face's model as hugging-face, "
        "hugging-face-sdpa, hugging-face-compile or hugging-face-ipex, which need transformers; a variant that does "
        "not compute the same is reported and not timed; ipex and hugging-face-ipex load IPEX, which changes PyTorch "
        f"for all variants; without a name: nothing is compared (default: {' '.join(_COMPARED[benchmark])})",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run one benchmark and print its results."""
    # The benchmarks import torch, which takes seconds: `--help` and wrong options do not wait for it.
    if arguments.benchmark == "step":
        from bert_large.bench import step

        return measure_and_print(
            arguments,
            step.measure,
            step.render,
            compare=arguments.compare,
            sequence_length=arguments.seq_len,
            batch_size=arguments.batch_size,
        )
    if arguments.benchmark == "train":
        from bert_large.bench import train

        return measure_and_print(
            arguments,
            train.measure,
            train.render,
            compare=arguments.compare,
            work=train.Work(
                phase=arguments.phase,
                global_batch_size=global_batch_size(arguments),
                micro_batch_tokens=arguments.micro_batch_tokens,
                steps=arguments.steps,
                workers=arguments.data_workers,
                hugging_face_batch_size=arguments.hugging_face_batch_size or _HUGGING_FACE_BATCH_SIZES[arguments.phase],
            ),
        )
    from bert_large.bench import checkpoint

    return measure_and_print(
        arguments,
        checkpoint.measure,
        checkpoint.render,
        folder=Path(arguments.output_dir),
        save_every=arguments.save_every,
        step_seconds=arguments.step_seconds,
    )
