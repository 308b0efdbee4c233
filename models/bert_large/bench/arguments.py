"""Options that the benchmarks share, here and in benchmarks/."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bert_large.bench.output import to_json
from bert_large.config.model import ModelConfig
from bert_large.config.numbers import integer
from bert_large.config.training import PHASE_SEQ_LENGTHS, PRECISIONS, TrainConfig, check_precision
from bert_large.errors import InputError, UserError

_GLOBAL_BATCH_SIZES = {1: 32, 2: 8}
_LEAST_TOKENS = 5
"""[CLS], one token of each segment, and two [SEP]."""
_UNUSED_VOCAB_SIZE = 8
"""Vocabulary of the model of which only the encoder runs."""


def add_run_arguments(parser: argparse.ArgumentParser, rounds: int) -> None:
    """Add engine, precision, rounds and the form of the output."""
    parser.add_argument("--engine", default="auto", help="as for pretrain (default auto)")
    parser.add_argument("--precision", default="fp32", help=f"one of {', '.join(PRECISIONS)} (default fp32)")
    parser.add_argument("--rounds", type=integer(1), default=rounds, help=f"timed rounds (default {rounds})")
    parser.add_argument("--warmups", type=integer(0), default=1, help="untimed rounds before them (default 1)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")


def add_model_arguments(parser: argparse.ArgumentParser, layers: int, *, has_heads: bool = True) -> None:
    """Add the model's shape; an encoder alone has no vocabulary."""
    shape = ModelConfig()
    hidden, head = shape.hidden_size, shape.hidden_size // shape.num_attention_heads
    group = parser.add_argument_group("the model (by default the shape of BERT-large)")
    group.add_argument("--layers", type=integer(1), default=layers, help=f"encoder layers (default {layers})")
    group.add_argument("--hidden-size", type=integer(1), default=hidden, help=f"default {hidden}")
    group.add_argument("--attention-heads", type=integer(1), help=f"default: hidden size / {head}, at least 1")
    group.add_argument("--intermediate-size", type=integer(1), help="default: hidden size * 4")
    if has_heads:
        vocab_size = shape.vocab_size
        group.add_argument("--vocab-size", type=integer(2), default=vocab_size, help=f"default {vocab_size}")


def add_batch_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the phase and the size of a training step."""
    parser.add_argument("--phase", type=int, choices=sorted(PHASE_SEQ_LENGTHS), default=1, help="1: 128, 2: 512 tokens")
    parser.add_argument("--global-batch-size", type=integer(1), help="sequences per step (default 32, phase 2: 8)")
    parser.add_argument(
        "--micro-batch-tokens",
        type=integer(1),
        default=TrainConfig.micro_batch_tokens,
        help=f"most tokens of a forward and backward pass (default {TrainConfig.micro_batch_tokens})",
    )


def global_batch_size(arguments: argparse.Namespace) -> int:
    """Return the sequences per step."""
    return arguments.global_batch_size or _GLOBAL_BATCH_SIZES[arguments.phase]


def model_of(arguments: argparse.Namespace) -> ModelConfig:
    """Return the configuration of the model, with as many positions as the benchmark's sequences need."""
    defaults, hidden = ModelConfig(), arguments.hidden_size
    sequence_length = getattr(arguments, "seq_len", defaults.max_position_embeddings)
    if sequence_length < _LEAST_TOKENS:
        raise InputError(f"--seq-len is {sequence_length}, expected at least {_LEAST_TOKENS} tokens")
    return ModelConfig(
        vocab_size=getattr(arguments, "vocab_size", _UNUSED_VOCAB_SIZE),
        hidden_size=hidden,
        num_hidden_layers=arguments.layers,
        num_attention_heads=arguments.attention_heads
        or max(1, hidden * defaults.num_attention_heads // defaults.hidden_size),
        intermediate_size=arguments.intermediate_size or 4 * hidden,
        max_position_embeddings=max(defaults.max_position_embeddings, sequence_length),
    )


def measure_and_print(
    arguments: argparse.Namespace,
    measure: Callable[..., dict[str, Any]],
    render: Callable[[dict[str, Any]], str],
    **options: Any,
) -> int:
    """Call `measure` with the shared options and `options`, and print its results as a table or as JSON."""
    check_precision(arguments.precision)
    model = model_of(arguments)
    try:
        results = measure(
            model=model,
            engine=arguments.engine,
            precision=arguments.precision,
            rounds=arguments.rounds,
            warmups=arguments.warmups,
            **options,
        )
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "allocate" not in str(error):  # PyTorch raises both types
            raise
        raise UserError("there is not enough memory for this model and batch size; choose smaller ones") from None
    sys.stdout.write(f"{to_json(results) if arguments.json else render(results)}\n")
    return 0


def run_script(run: Callable[[], int]) -> int:
    """Return the exit code of a script in benchmarks/; an error the user can fix is printed as one line."""
    try:
        return run()
    except UserError as error:
        print(f"{Path(sys.argv[0]).name}: error: {error}", file=sys.stderr)
        return error.exit_code
