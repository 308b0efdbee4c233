"""`bert-large bench`: measure speed on this machine."""

from __future__ import annotations

import argparse
import importlib

from bert_large.bench.options import BenchmarkOptions, CheckpointOptions, StepOptions, TrainOptions, parse_options
from bert_large.bench.output import measure_and_print
from bert_large.config.options import CommandParser, add_settings

_BENCHMARKS: dict[str, tuple[type[BenchmarkOptions], str]] = {
    "step": (StepOptions, "time the encoder's forward and backward pass against its linear layers' matrix products"),
    "train": (TrainOptions, "time whole optimizer steps on sequences of real lengths, against Hugging Face's padded "
              "steps"),
    "checkpoint": (CheckpointOptions, "time how long training waits while a checkpoint is saved"),
}  # fmt: skip
_COMPARE = (
    "variants that take turns with the engine: eager, native, ipex, and Hugging Face's model as hugging-face, "
    "hugging-face-sdpa, hugging-face-compile, hugging-face-ipex or hugging-face-fast-bert, which need transformers; a "
    "variant that does not compute the same is reported and not timed; ipex, hugging-face-ipex and "
    "hugging-face-fast-bert load IPEX, which changes PyTorch for all variants; without a name: nothing is compared"
)


def add_arguments(parser: CommandParser) -> None:
    """Add the subcommands."""
    subparsers = parser.add_subparsers(dest="benchmark", required=True, metavar="BENCHMARK")
    for name, (kind, summary) in _BENCHMARKS.items():
        subparser = subparsers.add_parser(name, help=summary, description=summary)
        add_settings(subparser, kind)
        if kind.compare:
            text = f"{_COMPARE} (default: {' '.join(kind.compare)})"
            subparser.add_argument("--compare", nargs="*", metavar="NAME", default=kind.compare, help=text)


def run(arguments: argparse.Namespace) -> int:
    """Run one benchmark and print its results."""
    options = parse_options(_BENCHMARKS[arguments.benchmark][0], arguments)
    # Imported only here: torch takes seconds, for which `--help` and wrong options do not wait.
    benchmark = importlib.import_module(f"bert_large.bench.{arguments.benchmark}")
    return measure_and_print(options, benchmark.measure, benchmark.render)
