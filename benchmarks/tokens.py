"""Time per token of forward and backward passes in steps of different sizes.

python benchmarks/tokens.py --layers 2 --tokens 1024 4096 16384 [--json]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from bert_large.bench.arguments import add_model_arguments, add_run_arguments, measure_and_print, run_script
from bert_large.bench.output import describe_model, seconds_cells
from bert_large.bench.synthetic import make_record
from bert_large.bench.training import SEED
from bert_large.config.model import ModelConfig
from bert_large.config.numbers import integer
from bert_large.data.batch import RaggedBatch, make_batch
from bert_large.data.order import cut_by_tokens
from bert_large.engines import resolve_engine
from bert_large.engines.precision import Precision, apply_precision
from bert_large.errors import InputError
from bert_large.model.bert import BertForPreTraining
from bert_large.model.dropout import StepDropout
from bert_large.observe.machine import describe_software
from bert_large.observe.timing import Timing, Variant, alternate, as_dicts, best_and_median
from bert_large.tables import format_table

TOKENS = [1024, 2048, 4096, 8192, 16384]


def _make_micro_batches(
    tokens: int, *, sequence_length: int, micro_batch_tokens: int, vocab_size: int
) -> list[RaggedBatch]:
    """Return `tokens` tokens in sequences of one length, cut into micro-batches as in a training step."""
    generator = np.random.default_rng(SEED)
    records = [
        make_record(generator, sequence_length, max_predictions=sequence_length, vocab_size=vocab_size)
        for _ in range(tokens // sequence_length)
    ]
    cuts = cut_by_tokens(np.full(len(records), sequence_length), micro_batch_tokens)
    return [make_batch(records[cut], range(cut.start, cut.stop)) for cut in cuts]


def _make_variant(model: BertForPreTraining, micro_batches: Sequence[RaggedBatch], precision: Precision) -> Variant:
    """Return the forward and backward passes of a step; clearing the gradients is not timed."""

    def run(round_: int) -> None:
        for batch in micro_batches:
            with precision.autocast():
                sums = model(batch, StepDropout(SEED, round_))
            (sums.masked_lm_loss + sums.next_sentence_loss).backward()

    return Variant(run, lambda round_: model.zero_grad(set_to_none=False))


def measure(
    *,
    model: ModelConfig,
    engine: str,
    precision: str,
    sequence_length: int,
    tokens: Sequence[int],
    micro_batch_tokens: int,
    rounds: int,
    warmups: int,
) -> dict[str, Any]:
    """Measure steps of each number of tokens on full sequences of one length, with dropout."""
    wrong = [count for count in tokens if count % sequence_length]
    if wrong:
        raise InputError(f"--tokens is {wrong[0]}, expected a multiple of --seq-len {sequence_length}")
    operations, _ = resolve_engine(engine, precision)
    chosen = apply_precision(precision)
    trained = BertForPreTraining(model, operations)
    trained.initialize(SEED)
    variants = {}
    for count in tokens:
        micro_batches = _make_micro_batches(
            count,
            sequence_length=sequence_length,
            micro_batch_tokens=micro_batch_tokens,
            vocab_size=model.vocab_size,
        )
        variants[str(count)] = _make_variant(trained, micro_batches, chosen)
    timings = alternate(variants, rounds=rounds, warmups=max(1, warmups))  # the first round allocates the gradients
    return {
        "benchmark": "tokens",
        **describe_model(model),
        "precision": precision,
        "engine": operations.name,
        "sequence_length": sequence_length,
        "micro_batch_tokens": micro_batch_tokens,
        "rounds": rounds,
        "warmups": warmups,
        **_linearity(timings),
        "seconds": as_dicts(timings),
        **describe_software(),
    }


def _linearity(timings: Mapping[str, Timing]) -> dict[str, Any]:
    """Return the seconds per token of each size, and their largest relative distance from the mean."""
    results: dict[str, Any] = {}
    for suffix, seconds in best_and_median(timings):
        costs = {name: elapsed / int(name) for name, elapsed in seconds.items()}
        mean = sum(costs.values()) / len(costs)
        results[f"seconds_per_token{suffix}"] = costs
        results[f"nonlinearity{suffix}"] = max(abs(cost / mean - 1) for cost in costs.values())
    return results


def render(results: dict[str, Any]) -> str:
    """Return the results as a table."""
    rows = [["tokens per step", "seconds, min", "median", "microseconds per token, min", "median"]]
    for name, timing in results["seconds"].items():
        costs = [f"{results[key][name] * 1e6:.2f}" for key in ("seconds_per_token", "seconds_per_token_median")]
        rows.append([name, *seconds_cells(timing), *costs])
    return (
        f"forward and backward of {results['layers']} layers with both heads, {results['precision']}, engine "
        f"{results['engine']}, sequences of {results['sequence_length']} tokens, micro-batches of at most "
        f"{results['micro_batch_tokens']}, {results['rounds']} alternating rounds, {results['threads']} threads\n"
        f"{format_table(rows)}\n"
        f"largest distance from the mean time per token: {results['nonlinearity']:.1%}, "
        f"of medians {results['nonlinearity_median']:.1%}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description="time per token in steps of different sizes")
    parser.add_argument("--seq-len", type=integer(1), default=128, help="tokens of every sequence (default 128)")
    parser.add_argument(
        "--tokens", type=integer(1), nargs="+", default=TOKENS, help="tokens per step (default 1k to 16k)"
    )
    parser.add_argument(
        "--micro-batch-tokens", type=integer(1), default=4096, help="most tokens of a pass (default 4096)"
    )
    add_run_arguments(parser, 7)
    add_model_arguments(parser, 2)
    arguments = parser.parse_args(argv)
    return measure_and_print(
        arguments,
        measure,
        render,
        sequence_length=arguments.seq_len,
        tokens=arguments.tokens,
        micro_batch_tokens=arguments.micro_batch_tokens,
    )


if __name__ == "__main__":
    sys.exit(run_script(main))
