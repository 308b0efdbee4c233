"""`bert-large bench tokens`: what a token costs in steps of different sizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bert_large.bench.report import describe_model, format_rows, seconds_cells
from bert_large.bench.synthetic import make_record
from bert_large.bench.training import SEED
from bert_large.config.model import ModelConfig
from bert_large.data.batch import RaggedBatch, make_batch
from bert_large.data.order import cut_by_tokens
from bert_large.engines import resolve_engine
from bert_large.engines.precision import Precision, apply_precision
from bert_large.errors import InputError
from bert_large.model.bert import BertForPreTraining
from bert_large.model.dropout import StepDropout
from bert_large.observe.machine import describe_software
from bert_large.observe.timing import Timing, Variant, alternate, as_figures, best_and_median


def _make_micro_batches(
    tokens: int, *, sequence_length: int, micro_batch_tokens: int, vocab_size: int
) -> list[RaggedBatch]:
    """Return full sequences of `tokens` tokens together, cut into micro-batches as a training step's are."""
    generator = np.random.default_rng(SEED)
    records = [
        make_record(generator, sequence_length, max_predictions=sequence_length, vocab_size=vocab_size)
        for _ in range(tokens // sequence_length)
    ]
    cuts = cut_by_tokens(np.full(len(records), sequence_length), micro_batch_tokens)
    return [make_batch(records[cut], range(cut.start, cut.stop)) for cut in cuts]


def _make_variant(model: BertForPreTraining, micro_batches: Sequence[RaggedBatch], precision: Precision) -> Variant:
    """Return forward and backward passes of a step; clearing gradients belongs to the optimizer's share."""

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
    """Return seconds of forward and backward passes for steps of each of `tokens` tokens, the optimizer left out."""
    for count in tokens:
        if count % sequence_length:
            raise InputError(f"--tokens is {count}, expected a multiple of --seq-len {sequence_length}")
    operations, _ = resolve_engine(engine, precision)
    chosen = apply_precision(precision)
    ours = BertForPreTraining(model, operations)
    ours.initialize(SEED)
    variants = {
        str(count): _make_variant(
            ours,
            _make_micro_batches(
                count,
                sequence_length=sequence_length,
                micro_batch_tokens=micro_batch_tokens,
                vocab_size=model.vocab_size,
            ),
            chosen,
        )
        for count in tokens
    }
    timings = alternate(variants, rounds=rounds, warmups=max(1, warmups))  # the first round makes the gradients
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
        "seconds": as_figures(timings),
        **describe_software(),
    }


def _linearity(timings: dict[str, Timing]) -> dict[str, Any]:
    """Return seconds per token of each size, and how far they lie from their mean at most, as a share of it."""
    figures: dict[str, Any] = {}
    for suffix, seconds in best_and_median(timings):
        costs = {name: its / int(name) for name, its in seconds.items()}
        mean = sum(costs.values()) / len(costs)
        figures[f"seconds_per_token{suffix}"] = costs
        figures[f"nonlinearity{suffix}"] = max(abs(cost / mean - 1) for cost in costs.values())
    return figures


def render(figures: dict[str, Any]) -> str:
    """Return the figures as a table."""
    rows = [["tokens a step", "seconds, min", "median", "microseconds a token, min", "median"]]
    for name, its in figures["seconds"].items():
        costs = [f"{figures[key][name] * 1e6:.2f}" for key in ("seconds_per_token", "seconds_per_token_median")]
        rows.append([name, *seconds_cells(its), *costs])
    return (
        f"forward and backward of {figures['layers']} layers with both heads, {figures['precision']}, engine "
        f"{figures['engine']}, sequences of {figures['sequence_length']} tokens, micro-batches of at most "
        f"{figures['micro_batch_tokens']}, {figures['rounds']} alternating rounds, {figures['threads']} threads\n"
        f"{format_rows(rows)}\n"
        f"furthest from the mean cost of a token: {figures['nonlinearity']:.1%}, "
        f"of medians {figures['nonlinearity_median']:.1%}"
    )
