"""`bert-large bench step`: the encoder's forward and backward pass over the time of its matrix products alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from bert_large.bench.compared import Compared, resolve_compared, result_name
from bert_large.bench.hugging_face import make_encoder, without_dropout
from bert_large.bench.options import StepOptions
from bert_large.bench.output import describe_run, not_comparable_lines
from bert_large.bench.synthetic import make_record
from bert_large.bench.tolerance import TOLERANCES, Outcome, find_differences
from bert_large.bench.training import SEED
from bert_large.config.model import ModelConfig
from bert_large.cpp_library import LibraryBuildError
from bert_large.data.batch import make_batch
from bert_large.engines.eager import EagerEngine
from bert_large.engines.native.build import load_kernels
from bert_large.engines.precision import Precision, apply_precision, get_precision
from bert_large.matmul import matmul_precision
from bert_large.model.bert import BertForPreTraining
from bert_large.model.dropout import StepDropout
from bert_large.model.operations import Operations
from bert_large.observe.gemm import LinearProducts
from bert_large.observe.timing import Variant, alternate, as_dicts, format_spread, spread
from bert_large.tables import format_table

_PEAK_ITERATIONS = 1_000_000
"""Rounds of up to 24 vector products, or a sixteenth as many of four tile products: some milliseconds."""
Forward = Callable[[torch.Tensor, int], torch.Tensor]
"""Maps an encoder's input and the round to its output."""


@dataclass(frozen=True)
class _EncoderRun:
    """Forward and backward pass of an encoder, from a given gradient of its output into existing gradients."""

    forward: Forward
    parameters: dict[str, nn.Parameter]
    hidden: torch.Tensor
    gradient: torch.Tensor
    precision: Precision

    def prepare(self, round_: int) -> None:
        """Clear the gradients as before an optimizer step; in training the input's gradient is not accumulated."""
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
        """Return the output and the gradients of one run, in tensors that later runs do not overwrite."""
        self.prepare(0)
        output = self.run(0).detach().reshape(-1, self.hidden.shape[-1])
        gradients = {name: parameter.grad for name, parameter in self.parameters.items()}
        for parameter in self.parameters.values():
            parameter.grad = None
        input_gradient = None if self.hidden.grad is None else self.hidden.grad.reshape(output.shape)
        return Outcome(output, {"the input": input_gradient, **gradients})


class _Encoders:
    """Makes the encoder of every variant, with the same weights and the same input."""

    def __init__(self, config: ModelConfig, engine: Operations, *, sequences: int, length: int) -> None:
        self._model = BertForPreTraining(config, engine)
        self._model.initialize(SEED)
        generator = np.random.default_rng(SEED)
        records = [make_record(generator, length, max_predictions=length, vocab_size=8) for _ in range(sequences)]
        self._batch = make_batch(records, range(sequences))
        torch.manual_seed(SEED)
        self._hidden = torch.randn(sequences, length, config.hidden_size)
        self._gradient = torch.randn(sequences, length, config.hidden_size).mul_(1e-3)

    def of_engine(self, engine: Operations, precision: Precision, *, has_dropout: bool) -> _EncoderRun:
        """Return our encoder on an engine; all engines share the parameters."""
        encoder, batch = self._model.bert.encoder, self._batch

        def forward(hidden: torch.Tensor, round_: int) -> torch.Tensor:
            dropout = StepDropout(SEED, round_) if has_dropout else None
            for layer in encoder.layer:
                hidden = layer(batch, hidden, engine, dropout)
            return hidden

        # The type of the encoder's input, which the embeddings set in training, decides in which type it computes.
        with precision.autocast(), torch.no_grad():
            dtype = self._model.bert.embeddings(batch, engine, None).dtype
        hidden = self._hidden.flatten(0, 1).to(dtype, copy=True).requires_grad_()
        return _EncoderRun(forward, dict(encoder.named_parameters()), hidden, self._gradient.flatten(0, 1), precision)

    def of_form(self, form: str, precision: Precision, *, has_dropout: bool) -> _EncoderRun:
        """Return an encoder of Hugging Face's model; each has its own parameters."""
        config = self._model.config if has_dropout else without_dropout(self._model.config)
        encoder = make_encoder(config, form, precision, self._model.bert.encoder.state_dict())
        parameters, own_input = dict(encoder.named_parameters()), self._hidden.clone().requires_grad_()

        def forward(hidden: torch.Tensor, round_: int) -> torch.Tensor:
            return encoder(hidden).last_hidden_state

        return _EncoderRun(forward, parameters, own_input, self._gradient, precision)

    def makers(
        self, compared: Compared, precision: Precision, *, has_dropout: bool
    ) -> Mapping[str, Callable[[], _EncoderRun]]:
        """Return a function for each variant, by name, that makes its encoder."""
        of_engine = partial(self.of_engine, precision=precision, has_dropout=has_dropout)
        of_form = partial(self.of_form, precision=precision, has_dropout=has_dropout)
        engines = {engine.name: partial(of_engine, engine) for engine in compared.engines}
        return engines | {result_name(form): partial(of_form, form) for form in compared.forms}

    def reference(self) -> Outcome:
        """Return the expected outcome: the eager engine's in fp32, without dropout."""
        with matmul_precision("highest"):
            return self.of_engine(EagerEngine(), get_precision("fp32"), has_dropout=False).outcome()


def _make_runs(
    encoders: _Encoders, compared: Compared, precision: Precision
) -> tuple[Compared, dict[str, _EncoderRun], dict[str, str]]:
    """Return the variants that compute the same, their encoders with dropout, and how the other variants differ."""
    expected, makers = encoders.reference(), encoders.makers(compared, precision, has_dropout=False)
    outcomes = {name: lambda make=make: make().outcome() for name, make in makers.items()}
    differences = find_differences(outcomes, expected, TOLERANCES[precision.name])
    compared = compared.without(differences)
    runs = {name: make() for name, make in encoders.makers(compared, precision, has_dropout=True).items()}
    differences |= find_differences({name: run.outcome for name, run in runs.items()}, expected, math.inf)
    return compared.without(differences), {n: run for n, run in runs.items() if n not in differences}, differences


class _Peak:
    """The rate of this CPU's fastest multiply-adds on operands in registers, all threads, in a benchmark's rounds."""

    def __init__(self, precision: Precision) -> None:
        self._is_bfloat16 = precision.activation_dtype == torch.bfloat16
        self.operations = 0.0

    def variants(self) -> dict[str, Variant]:
        """Return the variant "peak", or none where there are no kernels to measure with."""
        try:
            load_kernels()
        except LibraryBuildError:
            return {}
        return {"peak": Variant(self._run)}

    def _run(self, round_: int) -> None:
        self.operations = torch.ops.bert_large.multiply_registers(_PEAK_ITERATIONS, self._is_bfloat16)


def measure(options: StepOptions) -> dict[str, Any]:
    """Measure the encoder on full sequences, without padding; `InputError` if a variant is not available.

    Hugging Face's encoder gets no attention mask, as there is no padding, which favors it.
    """
    compared = resolve_compared(options.engine, options.compare, options.precision)
    model, precision = options.model, apply_precision(options.precision)
    encoders = _Encoders(model, compared.engine, sequences=options.batch_size, length=options.seq_len)
    compared, runs, differences = _make_runs(encoders, compared, precision)
    products = LinearProducts(
        tokens=options.seq_len * options.batch_size, hidden=model.hidden_size, dtype=precision.activation_dtype,
        intermediate=model.intermediate_size, layers=model.num_hidden_layers,
    )  # fmt: skip
    bounds = products.variants("gemm_")
    peak = _Peak(precision)
    variants = peak.variants() | bounds | {name: Variant(run.run, run.prepare) for name, run in runs.items()}
    timings = alternate(variants, rounds=options.rounds, warmups=options.warmups)
    bound = min(bounds, key=lambda name: timings[name].median)
    gemm = timings[bound]
    shares = {}
    if "peak" in timings:
        seconds_at_peak = products.flops / peak.operations
        shares = {
            "peak_gflops_per_second": spread(timings["peak"].rates(peak.operations / 1e9)),
            "gemm_share_of_peak": spread([seconds_at_peak * ratio for ratio in timings["peak"].over(gemm)]),
        }
    return {
        **describe_run("step", options, compared.engine.name, has_heads=False),
        "sequence_length": options.seq_len,
        "batch_size": options.batch_size,
        "compared": compared.names,
        "not_comparable": differences,
        "gemm_form": bound.removeprefix("gemm_"),
        "gemm_gflops_per_second": spread(gemm.rates(products.flops / 1e9)),
        **shares,
        **{  # each variant's time over that of the products alone, round by round
            f"{label}_over_gemm": spread(timings[name].over(gemm))
            for label, name in [("step", compared.engine.name), *((name, name) for name in compared.names)]
        },
        "seconds": as_dicts(timings),
    }


def render(results: dict[str, Any]) -> str:
    """Return the results as a table."""
    rows = [["", "seconds, median", "over GEMM, median (quartiles)"]]
    for name, timing in results["seconds"].items():
        over = results.get(f"{'step' if name == results['engine'] else name}_over_gemm")
        rows.append([name, f"{timing['median']:.4f}", format_spread(over) if over else ""])
    lines = [
        f"encoder of {results['layers']} layers, {results['batch_size']} sequences of {results['sequence_length']} "
        f"tokens, {results['precision']}, dropout {results['dropout']}, forward and backward, "
        f"{results['rounds']} alternating rounds, {results['threads']} threads",
        format_table(rows),
        *not_comparable_lines(results),
        f"matrix products: {format_spread(results['gemm_gflops_per_second'])} GFLOP/s, "
        f"query, key and value {results['gemm_form']}",
    ]
    if "peak_gflops_per_second" in results:
        lines.append(
            f"multiply-adds in registers: {format_spread(results['peak_gflops_per_second'])} GFLOP/s, of which the "
            f"products reach {format_spread(results['gemm_share_of_peak'], '%', 0.01)}"
        )
    return "\n".join(lines)
