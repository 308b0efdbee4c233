"""`bert-large bench step`: forward and backward passes of the encoder over the time of its matrix products alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from bert_large.bench.compared import Compared, figure_name, resolve_compared
from bert_large.bench.hugging_face import make_encoder, without_dropout
from bert_large.bench.report import describe_model, format_rows, not_comparable_lines, seconds_cells
from bert_large.bench.synthetic import make_record
from bert_large.bench.tolerance import TOLERANCES, Outcome, exact_products, find_differences
from bert_large.bench.training import SEED
from bert_large.config.model import ModelConfig
from bert_large.data.batch import make_batch
from bert_large.engines.eager import EagerEngine
from bert_large.engines.precision import Precision, apply_precision, get_precision
from bert_large.model.bert import BertForPreTraining
from bert_large.model.dropout import StepDropout
from bert_large.model.operations import Operations
from bert_large.observe.gemm import LinearProducts
from bert_large.observe.machine import describe_software
from bert_large.observe.timing import Timing, Variant, alternate, as_figures, best_and_median

Forward = Callable[[torch.Tensor, int], torch.Tensor]
"""From an encoder's input and the round to its output."""


@dataclass(frozen=True)
class _EncoderRun:
    """Forward and backward of an encoder, from a given gradient at its output into gradients that exist already."""

    forward: Forward
    parameters: dict[str, nn.Parameter]
    hidden: torch.Tensor
    gradient: torch.Tensor
    precision: Precision

    def prepare(self, round_: int) -> None:
        """Clear the gradients as before an optimizer step; in training the input's is handed on, never added up."""
        for parameter in self.parameters.values():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            parameter.grad.zero_()
        self.hidden.grad = None

    def run(self, round_: int) -> torch.Tensor:
        """Compute one micro-batch and return the output."""
        with self.precision.autocast():
            output = self.forward(self.hidden, round_)
        output.backward(self.gradient.to(output.dtype))
        return output

    def outcome(self) -> Outcome:
        """Return what one run gives, in tensors that later runs leave alone."""
        self.prepare(0)
        output = self.run(0).detach().reshape(-1, self.hidden.shape[-1])
        gradients = {name: parameter.grad for name, parameter in self.parameters.items()}
        for parameter in self.parameters.values():
            parameter.grad = None
        input_gradient = None if self.hidden.grad is None else self.hidden.grad.reshape(output.shape)
        return Outcome(output, {"the input": input_gradient, **gradients})


def _outcome(make: Callable[[], _EncoderRun]) -> Outcome:
    return make().outcome()


Makers = Mapping[str, Callable[[], _EncoderRun]]
"""By name, of all that is compared."""


class _Encoders:
    """The encoder of everything compared, on one input and with the same weights."""

    def __init__(self, config: ModelConfig, engine: Operations, *, sequences: int, length: int) -> None:
        self._model = BertForPreTraining(config, engine)
        self._model.initialize(SEED)
        generator = np.random.default_rng(SEED)
        records = [make_record(generator, length, max_predictions=length, vocab_size=8) for _ in range(sequences)]
        self._batch = make_batch(records, range(sequences))
        torch.manual_seed(SEED)
        self._hidden = torch.randn(sequences, length, config.hidden_size)
        self._gradient = torch.randn(sequences, length, config.hidden_size).mul_(1e-3)

    def of_engine(self, engine: Operations, precision: Precision, *, drops: bool) -> _EncoderRun:
        """Return our encoder on an engine; all share the parameters."""
        encoder, batch = self._model.bert.encoder, self._batch

        def forward(hidden: torch.Tensor, round_: int) -> torch.Tensor:
            dropout = StepDropout(SEED, round_) if drops else None
            for layer in encoder.layer:
                hidden = layer(batch, hidden, engine, dropout)
            return hidden

        with precision.autocast(), torch.no_grad():  # the type that training gives the encoder, and so all it computes
            dtype = self._model.bert.embeddings(batch, engine, None).dtype
        hidden = self._hidden.flatten(0, 1).to(dtype, copy=True).requires_grad_()
        return _EncoderRun(forward, dict(encoder.named_parameters()), hidden, self._gradient.flatten(0, 1), precision)

    def of_form(self, form: str, precision: Precision, *, drops: bool) -> _EncoderRun:
        """Return an encoder of Hugging Face's; each has parameters of its own."""
        config = self._model.config if drops else without_dropout(self._model.config)
        encoder = make_encoder(config, form, precision, self._model.bert.encoder.state_dict())

        def forward(hidden: torch.Tensor, round_: int) -> torch.Tensor:
            return encoder(hidden).last_hidden_state

        hidden = self._hidden.clone().requires_grad_()
        return _EncoderRun(forward, dict(encoder.named_parameters()), hidden, self._gradient, precision)

    def makers(self, compared: Compared, precision: Precision, *, drops: bool) -> Makers:
        """Return by name what makes the run of each that is compared; `drops` tells if with dropout."""
        engines = {its.name: partial(self.of_engine, its, precision, drops=drops) for its in compared.engines}
        return engines | {figure_name(form): partial(self.of_form, form, precision, drops=drops)
                          for form in compared.forms}  # fmt: skip

    def reference(self) -> Outcome:
        """Return what all should compute, without dropout."""
        with exact_products():
            return self.of_engine(EagerEngine(), get_precision("fp32"), drops=False).outcome()


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

    Hugging Face's encoder gets no attention mask, as there is no padding: that is in its favour.
    """
    compared = resolve_compared(engine, compare, precision)
    chosen = apply_precision(precision)
    encoders = _Encoders(model, compared.engine, sequences=batch_size, length=sequence_length)
    expected = encoders.reference()
    makers = encoders.makers(compared, chosen, drops=False)
    outcomes = {name: partial(_outcome, make) for name, make in makers.items()}
    differences = find_differences(outcomes, expected, TOLERANCES[precision])
    compared = compared.without(differences)
    runs = {name: make() for name, make in encoders.makers(compared, chosen, drops=True).items()}
    differences |= find_differences({name: its.outcome for name, its in runs.items()}, expected, math.inf)
    compared = compared.without(differences)
    products = LinearProducts(
        tokens=sequence_length * batch_size,
        hidden=model.hidden_size,
        intermediate=model.intermediate_size,
        layers=model.num_hidden_layers,
        dtype=chosen.activation_dtype,
    )
    yardsticks = products.variants("gemm_")
    variants = yardsticks | {
        name: Variant(its.run, its.prepare) for name, its in runs.items() if name not in differences
    }
    timings = alternate(variants, rounds=rounds, warmups=warmups)
    yardstick = min(yardsticks, key=lambda name: timings[name].minimum)
    return {
        "benchmark": "step",
        "sequence_length": sequence_length,
        "batch_size": batch_size,
        **describe_model(model, has_heads=False),
        "precision": precision,
        "engine": compared.engine.name,
        "compared": compared.names,
        "not_comparable": differences,
        "rounds": rounds,
        "warmups": warmups,
        "gemm_form": yardstick.removeprefix("gemm_"),
        "gemm_gflops_per_second": products.flops / timings[yardstick].minimum / 1e9,
        **_ratios(timings, {"step": compared.engine.name} | {name: name for name in compared.names}, yardstick),
        "seconds": as_figures(timings),
        **describe_software(),
    }


def _ratios(timings: Mapping[str, Timing], labels: Mapping[str, str], yardstick: str) -> dict[str, float]:
    """Return by label the ratios of minima over the yardstick's, and with `_median` those of medians."""
    return {
        f"{label}_over_gemm{suffix}": seconds[name] / seconds[yardstick]
        for label, name in labels.items()
        for suffix, seconds in best_and_median(timings)
    }


def render(figures: dict[str, Any]) -> str:
    """Return the figures as a table."""
    seconds, yardstick = figures["seconds"], figures["seconds"][f"gemm_{figures['gemm_form']}"]
    rows = [["", "seconds, min", "median", "over GEMM, min", "median"]]
    for name, its in seconds.items():
        over = [f"{its[which] / yardstick[which]:.3f}" for which in ("minimum", "median")]
        rows.append([name, *seconds_cells(its), *over])
    lines = [
        f"encoder of {figures['layers']} layers, {figures['batch_size']} sequences of {figures['sequence_length']} "
        f"tokens, {figures['precision']}, dropout {figures['dropout']}, forward and backward, "
        f"{figures['rounds']} alternating rounds, {figures['threads']} threads",
        format_rows(rows),
        *not_comparable_lines(figures),
        f"matrix products: {figures['gemm_gflops_per_second']:.0f} GFLOP/s, "
        f"query, key and value {figures['gemm_form']}",
    ]
    return "\n".join(lines)
