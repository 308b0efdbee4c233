"""`bert-large bench step`: forward and backward passes of the encoder over the time of its matrix products alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from bert_large.bench.compared import figure_name, resolve_compared
from bert_large.bench.gemm import LinearProducts
from bert_large.bench.hugging_face import make_encoder
from bert_large.bench.machine import describe_software
from bert_large.bench.report import format_rows
from bert_large.bench.synthetic import make_record
from bert_large.bench.timing import Timing, Variant, alternate
from bert_large.config import ModelConfig
from bert_large.data.batch import RaggedBatch, make_batch
from bert_large.engines.precision import Precision, apply_precision
from bert_large.model.bert import BertForPreTraining
from bert_large.model.dropout import StepDropout
from bert_large.model.operations import Operations

_SEED = 42
_YARDSTICKS = ("gemm_fused", "gemm_separate")

Forward = Callable[[torch.Tensor, int], torch.Tensor]
"""From an encoder's input and the round to its output."""


@dataclass(frozen=True)
class _EncoderRun:
    """Forward and backward of an encoder, from a given gradient at its output into gradients that exist already."""

    forward: Forward
    parameters: list[nn.Parameter]
    hidden: torch.Tensor
    gradient: torch.Tensor
    precision: Precision

    def prepare(self, round_: int) -> None:
        """Clear the gradients as before an optimizer step; in training the input's is handed on, never added up."""
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            parameter.grad.zero_()
        self.hidden.grad = None

    def run(self, round_: int) -> None:
        """Compute one micro-batch."""
        with self.precision.autocast():
            output = self.forward(self.hidden, round_)
        output.backward(self.gradient.to(output.dtype))


def _full_batch(sequences: int, length: int) -> RaggedBatch:
    """Return a batch of sequences that all have `length` tokens."""
    generator = np.random.default_rng(_SEED)
    records = [make_record(generator, length, max_predictions=length, vocab_size=8) for _ in range(sequences)]
    return make_batch(records, range(sequences))


def _our_forward(model: BertForPreTraining, batch: RaggedBatch, engine: Operations) -> Forward:
    def forward(hidden: torch.Tensor, round_: int) -> torch.Tensor:
        dropout = StepDropout(_SEED, round_)
        for layer in model.bert.encoder.layer:
            hidden = layer(batch, hidden, engine, dropout)
        return hidden

    return forward


def _their_forward(encoder: nn.Module) -> Forward:
    def forward(hidden: torch.Tensor, round_: int) -> torch.Tensor:
        return encoder(hidden).last_hidden_state

    return forward


def measure(
    *,
    model: ModelConfig,
    engine: str,
    compare: Sequence[str],
    precision: str,
    sequence_length: int,
    batch_size: int,
    rounds: int,
    warmups: int,
) -> dict[str, Any]:
    """Return the figures of `model`'s encoder on full sequences, without padding; `InputError` if something is missing.

    Hugging Face's encoder gets no attention mask, as there is no padding: that is in its favour. Its weights are
    drawn anew for each of its forms; ours are one set for all engines.
    """
    compared = resolve_compared(engine, compare, precision)
    chosen = apply_precision(precision)
    torch.manual_seed(_SEED)
    tokens, width = sequence_length * batch_size, model.hidden_size
    hidden = torch.randn(tokens, width)
    gradient = torch.randn(tokens, width).mul_(1e-3)

    products = LinearProducts(
        tokens=tokens,
        hidden=width,
        intermediate=model.intermediate_size,
        layers=model.num_hidden_layers,
        dtype=chosen.activation_dtype,
    )
    variants = {
        "gemm_fused": Variant(lambda round_: products.run(products.fused)),
        "gemm_separate": Variant(lambda round_: products.run(products.separate)),
    }

    def add(name: str, forward: Forward, parameters: list[nn.Parameter], shape: tuple[int, ...]) -> None:
        its_hidden = hidden.view(shape).clone().requires_grad_()
        run = _EncoderRun(forward, parameters, its_hidden, gradient.view(shape), chosen)
        variants[name] = Variant(run.run, run.prepare)

    ours = BertForPreTraining(model, compared.engine)
    ours.initialize(_SEED)
    batch = _full_batch(batch_size, sequence_length)
    for its in (compared.engine, *compared.other_engines):
        add(its.name, _our_forward(ours, batch, its), list(ours.bert.encoder.parameters()), (tokens, width))
    for form in compared.forms:
        encoder = make_encoder(model, form, chosen)
        shape = (batch_size, sequence_length, width)
        add(figure_name(form), _their_forward(encoder), list(encoder.parameters()), shape)

    timings = alternate(variants, rounds=rounds, warmups=warmups)
    yardstick = min(_YARDSTICKS, key=lambda name: timings[name].minimum)
    return {
        "benchmark": "step",
        "sequence_length": sequence_length,
        "batch_size": batch_size,
        "layers": model.num_hidden_layers,
        "hidden_size": width,
        "attention_heads": model.num_attention_heads,
        "intermediate_size": model.intermediate_size,
        "dropout": model.hidden_dropout_prob,
        "precision": precision,
        "engine": compared.engine.name,
        "compared": compared.names,
        "rounds": rounds,
        "warmups": warmups,
        "gemm_form": yardstick.removeprefix("gemm_"),
        "gemm_gflops_per_second": products.flops / timings[yardstick].minimum / 1e9,
        **_ratios(timings, {"step": compared.engine.name} | {name: name for name in compared.names}, yardstick),
        "seconds": {name: timing.as_figures() for name, timing in timings.items()},
        **describe_software(),
    }


def _ratios(timings: dict[str, Timing], labels: dict[str, str], yardstick: str) -> dict[str, float]:
    """Return by label the ratios of minima over the yardstick's, and with `_median` those of medians."""
    ratios = {}
    for label, name in labels.items():
        ratios[f"{label}_over_gemm"] = timings[name].minimum / timings[yardstick].minimum
        ratios[f"{label}_over_gemm_median"] = timings[name].median / timings[yardstick].median
    return ratios


def render(figures: dict[str, Any]) -> str:
    """Return the figures as a table."""
    seconds, yardstick = figures["seconds"], figures["seconds"][f"gemm_{figures['gemm_form']}"]
    rows = [["", "seconds, min", "median", "over GEMM, min", "median"]]
    for name, its in seconds.items():
        over = [f"{its[which] / yardstick[which]:.3f}" for which in ("minimum", "median")]
        rows.append([name, f"{its['minimum']:.4f}", f"{its['median']:.4f}", *over])
    return (
        f"encoder of {figures['layers']} layers, {figures['batch_size']} sequences of {figures['sequence_length']} "
        f"tokens, {figures['precision']}, dropout {figures['dropout']}, forward and backward, "
        f"{figures['rounds']} alternating rounds, {figures['threads']} threads\n"
        f"{format_rows(rows)}\n"
        f"matrix products: {figures['gemm_gflops_per_second']:.0f} GFLOP/s, query, key and value {figures['gemm_form']}"
    )
