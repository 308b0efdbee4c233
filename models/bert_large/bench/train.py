"""`bert-large bench train`: whole optimizer steps on sequences of real lengths, against Hugging Face's padded steps."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bert_large.bench.compared import Compared, resolve_compared, result_name
from bert_large.bench.hugging_face import HuggingFaceTraining, pad, without_dropout
from bert_large.bench.options import TrainOptions
from bert_large.bench.output import describe_run, not_comparable_lines
from bert_large.bench.synthetic import phase_lengths
from bert_large.bench.tolerance import TOLERANCES, Outcome, compute_gradients, find_differences
from bert_large.bench.training import LEARNING_RATE, SEED, build_runner, open_batches
from bert_large.config.model import ModelConfig
from bert_large.data.batch import RaggedBatch, make_batch
from bert_large.data.loader import StepBatches, iterate_steps
from bert_large.engines.eager import EagerEngine
from bert_large.engines.precision import Precision, apply_precision, get_precision
from bert_large.matmul import matmul_precision
from bert_large.model.bert import BertForPreTraining
from bert_large.model.operations import Operations
from bert_large.observe.machine import peak_memory_bytes
from bert_large.observe.metrics import StepMetrics
from bert_large.observe.timing import Timing, Variant, alternate, as_dicts, format_spread, spread
from bert_large.tables import format_table
from bert_large.train.step import StepRunner

_LOADING_STEPS = 3
"""Steps whose data is read again to measure how long that takes; the fastest counts."""


@dataclass
class _EngineTraining:
    """Optimizer steps on an engine as `train.loop` runs them: wait for the loader, then train."""

    runner: StepRunner
    engine: Operations
    batches: Iterator[list[RaggedBatch]]
    steps_per_round: int
    metrics: list[StepMetrics] = field(default_factory=list)

    def prepare(self, round_: int) -> None:
        self.runner.model.engine = self.engine

    def run(self, round_: int) -> None:
        for step in range(round_ * self.steps_per_round, (round_ + 1) * self.steps_per_round):
            started = time.perf_counter()
            micro_batches = next(self.batches)
            waited = time.perf_counter() - started
            self.metrics.append(self.runner.run(step, micro_batches, waited, lambda done: None))

    def data_wait_share(self, warmup_steps: int) -> float:
        """Return the share of the steps' time spent waiting for data."""
        timed = self.metrics[warmup_steps:]
        return sum(step.data_seconds for step in timed) / sum(step.seconds for step in timed)


@dataclass
class _PaddedTraining:
    """The same global batches, padded to the phase's length, in Hugging Face's model; padding them is not timed."""

    training: HuggingFaceTraining
    batches: StepBatches
    batch_size: int
    steps_per_round: int
    _padded: list[list[dict[str, torch.Tensor]]] = field(default_factory=list)

    def prepare(self, round_: int) -> None:
        first = round_ * self.steps_per_round
        self._padded = [self._pad_step(step) for step in range(first, first + self.steps_per_round)]

    def run(self, round_: int) -> None:
        for micro_batches in self._padded:
            self.training.step(micro_batches)

    def _pad_step(self, step: int) -> list[dict[str, torch.Tensor]]:
        dataset, numbers = self.batches.dataset, self.batches.order.record_numbers(*self.batches.samples(step))
        return [
            pad(dataset.read_all(numbers[start : start + self.batch_size]), dataset.shape.max_seq_length)
            for start in range(0, len(numbers), self.batch_size)
        ]


def _keep_comparable(
    compared: Compared, runner: StepRunner, batches: StepBatches, sequences: int
) -> tuple[Compared, dict[str, HuggingFaceTraining], dict[str, str]]:
    """Return the variants whose loss and gradients of one micro-batch agree, and how the other variants differ."""
    if not compared.names:  # nothing to compare: do not allocate memory for it
        return compared, {}, {}
    model, precision = runner.model, runner.precision
    numbers = batches.order.record_numbers(0, min(sequences, batches.batch_sizes.full))
    records = batches.dataset.read_all(numbers)
    batch, padded = make_batch(records, range(len(records))), pad(records, batches.dataset.shape.max_seq_length)

    def engine_outcome(engine: Operations, chosen: Precision) -> Outcome:
        model.engine = engine
        with chosen.autocast():
            sums = model(batch, None)
        loss = sums.masked_lm_loss / batch.masked_tokens + sums.next_sentence_loss / batch.sequences
        return compute_gradients(loss, model)

    def train(form: str, config: ModelConfig) -> HuggingFaceTraining:
        torch.manual_seed(SEED)
        return HuggingFaceTraining(
            config, form, model.state_dict(), precision=precision, learning_rate=LEARNING_RATE,
            max_norm=runner.max_gradient_norm,
        )  # fmt: skip

    def form_outcome(form: str) -> Outcome:
        return train(form, without_dropout(model.config)).outcome(padded)

    with matmul_precision("highest"):
        expected = engine_outcome(EagerEngine(), get_precision("fp32"))
    outcomes = {engine.name: partial(engine_outcome, engine, precision) for engine in compared.engines}
    outcomes |= {result_name(form): partial(form_outcome, form) for form in compared.forms}
    differences = find_differences(outcomes, expected, TOLERANCES[precision.name])
    trainings = {result_name(form): train(form, model.config) for form in compared.without(differences).forms}
    timed = {name: partial(training.outcome, padded) for name, training in trainings.items()}
    differences |= find_differences(timed, expected, math.inf)
    compared = compared.without(differences)
    return compared, {name: trainings[name] for name in map(result_name, compared.forms)}, differences


def measure(options: TrainOptions) -> dict[str, Any]:
    """Measure rounds of steps: our engines train one model in turns, each form of Hugging Face's model its own."""
    compared = resolve_compared(options.engine, options.compare, options.precision)
    model, steps, padded_size = options.model, options.steps, options.padded_batch_size
    total_steps = (options.warmups + options.rounds) * steps
    with tempfile.TemporaryDirectory(prefix="bert-large-bench-") as folder:
        batches = open_batches(Path(folder), model, options, steps=total_steps)
        # As in training, the loader's process starts before the weights exist.
        loaded = iterate_steps(batches, 0, total_steps, options.data_workers)
        trained = BertForPreTraining(model, compared.engine)
        trained.initialize(SEED)
        runner = build_runner(trained, apply_precision(options.precision), global_batch_size=options.batch_size)
        compared, padded, differences = _keep_comparable(compared, runner, batches, padded_size)
        ours = _EngineTraining(runner, compared.engine, loaded, steps)
        variants = {compared.engine.name: Variant(ours.run, ours.prepare)}
        for other in compared.other_engines:
            training = _EngineTraining(runner, other, iterate_steps(batches, 0, total_steps, workers=0), steps)
            variants[other.name] = Variant(training.run, training.prepare)
        for name, form in padded.items():
            theirs = _PaddedTraining(form, batches, padded_size, steps)
            variants[name] = Variant(theirs.run, theirs.prepare)
        timings = alternate(variants, rounds=options.rounds, warmups=options.warmups)
        peak = peak_memory_bytes()
        data = _measure_data(batches, min(total_steps, _LOADING_STEPS), options.phase)
    return {
        **describe_run("train", options, compared.engine.name),
        "phase": options.phase,
        "includes": "embeddings, encoder, both pretraining heads, clipping, optimizer, waiting for data",
        "compared": compared.names,
        "not_comparable": differences,
        "global_batch_size": options.batch_size,
        "micro_batch_tokens": options.micro_batch_tokens,
        "data_workers": options.data_workers,
        "steps_per_round": steps,
        "parameters": sum(parameter.numel() for parameter in trained.parameters()),
        **data,
        **_throughput(timings, compared.engine.name, compared.names, steps * options.batch_size),
        "hugging_face_batch_size": padded_size if compared.forms else None,
        "data_wait_share": ours.data_wait_share(options.warmups * steps),
        "peak_memory_bytes": peak,
        "peak_memory_includes_hugging_face": bool(compared.forms),
        "seconds": as_dicts(timings, 1 / steps),
    }


def _measure_data(batches: StepBatches, steps: int, phase: int) -> dict[str, float]:
    """Return the mean sequence length, and the fastest time in which one process reads and decodes a step's records.

    If that is longer than a step, training waits for data however far the loader reads ahead.
    """
    seconds = []
    for step in range(steps):
        started = time.perf_counter()
        _ = batches[step]
        seconds.append(time.perf_counter() - started)
    return {
        "tokens_per_sequence": batches.dataset.total_tokens() / len(batches.dataset),
        "distribution_tokens_per_sequence": phase_lengths(phase).mean,
        "data_loading_seconds": min(seconds),
    }


def _throughput(timings: Mapping[str, Timing], engine: str, compared: Sequence[str], sequences: int) -> dict[str, Any]:
    """Return the sequences per second of each variant, and the engine's over those of the others, round by round."""
    results = {"sequences_per_second": spread(timings[engine].rates(sequences))}
    for name in compared:
        results[f"{name}_sequences_per_second"] = spread(timings[name].rates(sequences))
        results[f"over_{name}"] = spread(timings[name].over(timings[engine]))
    return results


def render(results: dict[str, Any]) -> str:
    """Return the results as text."""
    engine = results["engine"]
    rows = [["", "seconds per step, median", "sequences/s, median", f"{engine} over it, median (quartiles)"]]
    for name in (engine, *results["compared"]):
        rate = results["sequences_per_second" if name == engine else f"{name}_sequences_per_second"]
        over = "1" if name == engine else format_spread(results[f"over_{name}"])
        rows.append([name, f"{results['seconds'][name]['median']:.4f}", f"{rate['median']:.3f}", over])
    extent = "with Hugging Face's model" if results["peak_memory_includes_hugging_face"] else "without the loader"
    lines = [
        f"phase {results['phase']}, {results['layers']} layers with both heads (vocabulary of "
        f"{results['vocab_size']}), {results['parameters']} parameters, {results['precision']}, engine {engine}, "
        f"{results['global_batch_size']} sequences per step of {results['tokens_per_sequence']:.1f} tokens on average, "
        f"{results['rounds']} alternating rounds, {results['threads']} threads",
        format_table(rows),
        *not_comparable_lines(results),
        f"waiting for data: {results['data_wait_share']:.3%} of the step; the loader reads and decodes it in "
        f"{results['data_loading_seconds']:.4f} s",
        f"peak memory: {results['peak_memory_bytes'] / 2**30:.2f} GiB, {extent}",
    ]
    return "\n".join(lines)
