"""`bert-large bench`: measure speed and memory on this machine."""

from __future__ import annotations

import argparse
import importlib
import json
import math
import sys
from pathlib import Path
from typing import Any

from bert_large.config.model import ModelConfig
from bert_large.config.training import PHASE_SEQ_LENGTHS, PRECISIONS, check_precision
from bert_large.errors import InputError

_LAYERS = {"step": 2, "train": 12, "tokens": 2, "ranks": 4, "checkpoint": 24}
_GLOBAL_BATCH_SIZES = {1: 32, 2: 8}
_HUGGING_FACE_BATCH_SIZES = {1: 16, 2: 4}
"""The sizes at which its padded micro-batches hold 2048 tokens: larger ones were not faster."""
_MIN_TOKENS = 5
"""[CLS], a token of each segment, and two [SEP]."""
_MIN_VOCAB_SIZE = 2
_VOCAB_SIZE_UNUSED = 8
"""Of the model whose encoder alone is run."""
_BUCKETS_MB = (1.0, 5.0, 100.0)
RANKS_COMPARISONS = ("one", "silent", "buckets", "bf16", "zero1", "plain")
_COMPARED = {"step": ("hugging-face", "hugging-face-sdpa"), "train": ("hugging-face",)}
_TOKENS = (1024, 2048, 4096, 8192, 16384)
_SUMMARIES = {
    "step": "forward and backward of the encoder over its linear layers' matrix products",
    "train": "whole optimizer steps on sequences of real lengths, against Hugging Face's padded steps",
    "tokens": "the cost of a token in steps of different sizes",
    "ranks": "steps on several ranks against one rank on the same cores, and what communication costs",
    "checkpoint": "how long training stands still while a checkpoint is saved",
    "scaling": "a model of many sockets, from measured inputs",
    "record": "run the set and write a dated record of it",
}


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r}, expected an integer > 0")
    return int(text)


def _not_negative(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r}, expected an integer >= 0")
    return int(text)


def _positive_seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}, expected seconds > 0")
    return seconds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the sub-commands."""
    subparsers = parser.add_subparsers(dest="benchmark", required=True, metavar="BENCHMARK")
    add = {
        "step": _add_step_arguments,
        "train": _add_train_arguments,
        "tokens": _add_tokens_arguments,
        "ranks": _add_ranks_arguments,
        "checkpoint": _add_checkpoint_arguments,
        "scaling": _add_scaling_arguments,
        "record": _add_record_arguments,
    }
    for name, summary in _SUMMARIES.items():
        subparser = subparsers.add_parser(name, help=summary, description=summary, allow_abbrev=False)
        add[name](subparser)
        if name == "scaling":
            continue
        subparser.add_argument("--precision", default="fp32", help=f"one of {', '.join(PRECISIONS)} (default fp32)")
        if name in _LAYERS:
            _add_model_arguments(subparser, name)


def _add_model_arguments(parser: argparse.ArgumentParser, name: str) -> None:
    shape = ModelConfig()
    group = parser.add_argument_group("the model (BERT-large's shape by default)")
    layers = _LAYERS[name]
    group.add_argument("--layers", type=_positive, default=layers, help=f"encoder layers (default {layers})")
    hidden, head = shape.hidden_size, shape.hidden_size // shape.num_attention_heads
    group.add_argument("--hidden-size", type=_positive, default=hidden, help=f"default {hidden}")
    group.add_argument("--attention-heads", type=_positive, help=f"default: hidden size / {head}, 1 at least")
    group.add_argument("--intermediate-size", type=_positive, help="default: hidden size * 4")
    if name != "step":
        group.add_argument("--vocab-size", type=_positive, default=shape.vocab_size, help=f"default {shape.vocab_size}")


def _add_run_arguments(parser: argparse.ArgumentParser, rounds: int) -> None:
    parser.add_argument("--rounds", type=_positive, default=rounds, help=f"timed rounds (default {rounds})")
    parser.add_argument("--warmups", type=_not_negative, default=1, help="rounds before them, not timed (default 1)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")


def _add_engine_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--engine", default="auto", help="as for pretrain (default auto)")


def _add_compare_argument(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument(
        "--compare",
        nargs="*",
        metavar="NAME",
        help="what takes turns with the engine: eager, native, ipex, and Hugging Face's model as hugging-face, "
        "hugging-face-sdpa, hugging-face-compile or hugging-face-ipex, which need transformers; what does not compute "
        "the same is told and not timed; both that have ipex in "
        f"the name load IPEX, which changes PyTorch for all of them; without a name: nothing (default: {default})",
    )


def _add_step_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seq-len", type=_positive, default=128, help="tokens of every sequence (default 128)")
    parser.add_argument("--batch-size", type=_positive, default=16, help="sequences (default 16)")
    _add_engine_argument(parser)
    _add_compare_argument(parser, " ".join(_COMPARED["step"]))
    _add_run_arguments(parser, 7)


def _add_batch_arguments(parser: argparse.ArgumentParser) -> None:
    from bert_large.train.settings import SETTINGS

    micro_batch_tokens = SETTINGS["micro_batch_tokens"].default
    parser.add_argument("--phase", type=int, choices=sorted(PHASE_SEQ_LENGTHS), default=1, help="1: 128, 2: 512 tokens")
    parser.add_argument("--global-batch-size", type=_positive, help="sequences a step (default 32, phase 2: 8)")
    parser.add_argument(
        "--micro-batch-tokens",
        type=_positive,
        default=micro_batch_tokens,
        help=f"most tokens of a forward and backward pass (default {micro_batch_tokens})",
    )


def _add_train_arguments(parser: argparse.ArgumentParser) -> None:
    _add_batch_arguments(parser)
    parser.add_argument("--steps", type=_positive, default=1, help="optimizer steps a round (default 1)")
    parser.add_argument("--data-workers", type=_not_negative, default=1, help="processes that read ahead (default 1)")
    _add_engine_argument(parser)
    _add_compare_argument(parser, " ".join(_COMPARED["train"]))
    parser.add_argument(
        "--hugging-face-batch-size", type=_positive, help="sequences of its micro-batches (default 16, phase 2: 4)"
    )
    _add_run_arguments(parser, 7)


def _add_tokens_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seq-len", type=_positive, default=128, help="tokens of every sequence (default 128)")
    parser.add_argument(
        "--tokens", type=_positive, nargs="+", default=list(_TOKENS), help="tokens a step (default 1k to 16k)"
    )
    parser.add_argument(
        "--micro-batch-tokens", type=_positive, default=4096, help="most tokens of a pass (default 4096)"
    )
    _add_engine_argument(parser)
    _add_run_arguments(parser, 7)


def _add_ranks_arguments(parser: argparse.ArgumentParser) -> None:
    _add_batch_arguments(parser)
    parser.add_argument("--ranks", type=_positive, default=2, help="ranks, which share the cores (default 2)")
    parser.add_argument(
        "--compare", nargs="+", choices=RANKS_COMPARISONS, default=list(RANKS_COMPARISONS),
        help="with one rank on all cores, no communication, other bucket sizes, bf16 gradients, divided optimizer "
        "state, a plain sum of as many bytes (default: all)",
    )  # fmt: skip
    parser.add_argument(
        "--bucket-mb", type=float, nargs="+", default=list(_BUCKETS_MB),
        help=f"the other bucket sizes in MiB (default {' '.join(f'{size:g}' for size in _BUCKETS_MB)})",
    )  # fmt: skip
    _add_engine_argument(parser)
    _add_run_arguments(parser, 5)


def _add_checkpoint_arguments(parser: argparse.ArgumentParser) -> None:
    from bert_large.train.settings import SETTINGS

    save_every = SETTINGS["save_every"].default
    parser.add_argument("--output-dir", default="output", help="a folder on the disk in question (default output)")
    parser.add_argument(
        "--save-every", type=_positive, default=save_every, help=f"steps between checkpoints (default {save_every})"
    )
    parser.add_argument("--step-seconds", type=_positive_seconds, help="time of a step, of which saving takes a share")
    _add_engine_argument(parser)
    _add_run_arguments(parser, 3)


def _add_scaling_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--update", metavar="FILE", help="put the tables into a document, between their marks")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")


def _add_record_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output-dir", default="benchmarks", help="folder for the record (default benchmarks)")
    parser.add_argument("--rounds", type=_positive, help="timed rounds of every benchmark (default: the set's)")
    _add_engine_argument(parser)
    _add_compare_argument(parser, "the set's")


def run(arguments: argparse.Namespace) -> int:
    """Measure, and print the figures."""
    if arguments.benchmark == "scaling":
        return _run_scaling(arguments)
    check_precision(arguments.precision)
    # Imported only here, after the options are parsed: torch takes seconds.
    benchmark = importlib.import_module(f"bert_large.bench.{arguments.benchmark}")
    if arguments.benchmark == "record":
        path = benchmark.write_record(
            Path(arguments.output_dir), _set_options(arguments), lambda command: print(command, file=sys.stderr)
        )
        sys.stdout.write(f"{path}\n")
        return 0
    options = {
        "step": _step_options, "train": _train_options, "tokens": _tokens_options, "ranks": _ranks_options,
        "checkpoint": _checkpoint_options,
    }[arguments.benchmark]  # fmt: skip
    figures = benchmark.measure(
        model=_model(arguments),
        engine=arguments.engine,
        precision=arguments.precision,
        rounds=arguments.rounds,
        warmups=arguments.warmups,
        **options(arguments),
    )
    sys.stdout.write(f"{json.dumps(figures) if arguments.json else benchmark.render(figures)}\n")
    return 0


def _run_scaling(arguments: argparse.Namespace) -> int:
    from bert_large.bench import scaling

    figures = scaling.measure()
    if arguments.update is not None:
        scaling.update(Path(arguments.update), scaling.render(figures))
    else:
        sys.stdout.write(f"{json.dumps(figures) if arguments.json else scaling.render(figures)}\n")
    return 0


def _model(arguments: argparse.Namespace) -> ModelConfig:
    """Return the model's configuration; positions reach as far as the benchmark's sequences."""
    defaults, hidden = ModelConfig(), arguments.hidden_size
    sequence_length = getattr(arguments, "seq_len", defaults.max_position_embeddings)
    vocab_size = getattr(arguments, "vocab_size", _VOCAB_SIZE_UNUSED)
    if sequence_length < _MIN_TOKENS:
        raise InputError(f"--seq-len is {sequence_length}, expected {_MIN_TOKENS} tokens at least")
    if vocab_size < _MIN_VOCAB_SIZE:
        raise InputError(f"--vocab-size is {vocab_size}, expected {_MIN_VOCAB_SIZE} at least")
    return ModelConfig(
        vocab_size=vocab_size,
        hidden_size=hidden,
        num_hidden_layers=arguments.layers,
        num_attention_heads=arguments.attention_heads
        or max(1, hidden * defaults.num_attention_heads // defaults.hidden_size),
        intermediate_size=arguments.intermediate_size or 4 * hidden,
        max_position_embeddings=max(defaults.max_position_embeddings, sequence_length),
    )


def _step_options(arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        "compare": _COMPARED["step"] if arguments.compare is None else arguments.compare,
        "sequence_length": arguments.seq_len,
        "batch_size": arguments.batch_size,
    }


def _train_options(arguments: argparse.Namespace) -> dict[str, Any]:
    phase = arguments.phase
    return {
        "phase": phase,
        "compare": _COMPARED["train"] if arguments.compare is None else arguments.compare,
        "global_batch_size": arguments.global_batch_size or _GLOBAL_BATCH_SIZES[phase],
        "micro_batch_tokens": arguments.micro_batch_tokens,
        "steps": arguments.steps,
        "workers": arguments.data_workers,
        "hugging_face_batch_size": arguments.hugging_face_batch_size or _HUGGING_FACE_BATCH_SIZES[phase],
    }


def _tokens_options(arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        "sequence_length": arguments.seq_len,
        "tokens": arguments.tokens,
        "micro_batch_tokens": arguments.micro_batch_tokens,
    }


def _ranks_options(arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        "phase": arguments.phase,
        "ranks": arguments.ranks,
        "global_batch_size": arguments.global_batch_size or _GLOBAL_BATCH_SIZES[arguments.phase],
        "micro_batch_tokens": arguments.micro_batch_tokens,
        "comparisons": arguments.compare,
        "buckets_mb": arguments.bucket_mb,
    }


def _checkpoint_options(arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        "folder": Path(arguments.output_dir),
        "save_every": arguments.save_every,
        "step_seconds": arguments.step_seconds,
    }


def _set_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the options that hold for the whole set, by the names they have here; None: as the set has it."""
    names = ("engine", "precision", "rounds", "compare")
    return {name: getattr(arguments, name) for name in names}
