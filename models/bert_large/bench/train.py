"""`bert-large bench train`: whole optimizer steps on sequences of real lengths, against Hugging Face's padded ones."""

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

from bert_large.bench.compared import Compared, figure_name, resolve_compared
from bert_large.bench.hugging_face import HuggingFaceTraining, pad, without_dropout
from bert_large.bench.optimizer import measure_optimizer
from bert_large.bench.report import describe_model, format_rows, not_comparable_lines, seconds_cells
from bert_large.bench.synthetic import phase_lengths
from bert_large.bench.tolerance import TOLERANCES, Outcome, compute_gradients, exact_products, find_differences
from bert_large.bench.training import LEARNING_RATE, SEED, build_runner, open_batches
from bert_large.config.model import ModelConfig
from bert_large.data.batch import RaggedBatch, make_batch
from bert_large.data.loader import StepBatches, iterate_steps
from bert_large.engines.eager import EagerEngine
from bert_large.engines.precision import Precision, apply_precision, get_precision
from bert_large.model.bert import BertForPreTraining
from bert_large.model.operations import Operations
from bert_large.observe.machine import describe_software, peak_memory_bytes
from bert_large.observe.metrics import StepMetrics
from bert_large.observe.timing import Timing, Variant, alternate, as_figures, best_and_median
from bert_large.train.step import StepRunner

_OPTIMIZER_ROUNDS = 7


@dataclass
class _OurTraining:
    """Steps on an engine as `train.loop` runs them: wait for the loader, then train."""

    runner: StepRunner
    engine: Operations
    batches: Iterator[list[RaggedBatch]]
    steps_per_round: int
    figures: list[StepMetrics] = field(default_factory=list)

    def prepare(self, round_: int) -> None:
        self.runner.model.engine = self.engine

    def run(self, round_: int) -> None:
        for step in range(round_ * self.steps_per_round, (round_ + 1) * self.steps_per_round):
            started = time.perf_counter()
            micro_batches = next(self.batches)
            waited = time.perf_counter() - started
            self.figures.append(self.runner.run(step, micro_batches, waited, lambda done: None))

    def data_wait_share(self, warmup_steps: int) -> float:
        """Return the share of the steps' time that was waited for data."""
        timed = self.figures[warmup_steps:]
        return sum(step.data_seconds for step in timed) / sum(step.seconds for step in timed)


@dataclass
class _TheirTraining:
    """The same global batches, padded to the phase's length, in Hugging Face's model; padding them is not timed."""

    training: HuggingFaceTraining
    batches: StepBatches
    batch_size: int
    steps_per_round: int
    _padded: list[list[dict[str, torch.Tensor]]] = field(default_factory=list)

    def prepare(self, round_: int) -> None:
        first = round_ * self.steps_per_round
        self._padded = [
            _pad_step(self.batches, step, self.batch_size) for step in range(first, first + self.steps_per_round)
        ]

    def run(self, round_: int) -> None:
        for micro_batches in self._padded:
            self.training.step(micro_batches)


def _pad_step(batches: StepBatches, step: int, batch_size: int) -> list[dict[str, torch.Tensor]]:
    """Return the micro-batches of a step as Hugging Face's model takes them."""
    dataset, first = batches.dataset, step * batches.global_batch_size
    numbers = batches.order.record_numbers(first, first + batches.global_batch_size)
    return [
        pad(dataset.read_all(numbers[start : start + batch_size]), dataset.shape.max_seq_length)
        for start in range(0, len(numbers), batch_size)
    ]


def _keep_those_that_agree(
    compared: Compared, runner: StepRunner, batches: StepBatches, sequences: int
) -> tuple[Compared, dict[str, HuggingFaceTraining], dict[str, str]]:
    """Return those whose loss and gradients of a micro-batch agree, Hugging Face's of them, and how others differ."""
    if not compared.names:  # and no memory is to be taken for a comparison
        return compared, {}, {}
    model, precision = runner.model, runner.precision
    numbers = batches.order.record_numbers(0, min(sequences, batches.global_batch_size))
    records = batches.dataset.read_all(numbers)
    batch, padded = make_batch(records, range(len(records))), pad(records, batches.dataset.shape.max_seq_length)

    def of_engine(engine: Operations, chosen: Precision) -> Outcome:
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

    def of_form(form: str) -> Outcome:
        return train(form, without_dropout(model.config)).outcome(padded)

    with exact_products():
        expected = of_engine(EagerEngine(), get_precision("fp32"))
    outcomes = {engine.name: partial(of_engine, engine, precision) for engine in compared.engines}
    outcomes |= {figure_name(form): partial(of_form, form) for form in compared.forms}
    differences = find_differences(outcomes, expected, TOLERANCES[precision.name])
    trainings = {figure_name(form): train(form, model.config) for form in compared.without(differences).forms}
    timed = {name: partial(training.outcome, padded) for name, training in trainings.items()}
    differences |= find_differences(timed, expected, math.inf)
    compared = compared.without(differences)
    return compared, {name: trainings[name] for name in map(figure_name, compared.forms)}, differences


def _make_contenders(
    ours: _OurTraining,
    compared: Compared,
    trainings: Mapping[str, HuggingFaceTraining],
    batches: StepBatches,
    hugging_face_batch_size: int,
) -> dict[str, _OurTraining | _TheirTraining]:
    """Return what takes turns, by name: our engines read the same data, each from its start."""
    contenders: dict[str, _OurTraining | _TheirTraining] = {compared.engine.name: ours}
    for engine in compared.other_engines:
        its_batches = iterate_steps(batches, 0, len(batches.dataset) // batches.global_batch_size, workers=0)
        contenders[engine.name] = _OurTraining(ours.runner, engine, its_batches, ours.steps_per_round)
    for name, training in trainings.items():
        contenders[name] = _TheirTraining(training, batches, hugging_face_batch_size, ours.steps_per_round)
    return contenders


def measure(
    *,
    model: ModelConfig,
    phase: int,
    engine: str,
    compare: Sequence[str],
    precision: str,
    global_batch_size: int,
    micro_batch_tokens: int,
    steps: int,
    rounds: int,
    warmups: int,
    workers: int,
    hugging_face_batch_size: int,
) -> dict[str, Any]:
    """Return the figures of `rounds` rounds of `steps` steps each; `InputError` if something is missing.

    Our engines train one model in turns; each form of Hugging Face's trains its own.
    """
    compared = resolve_compared(engine, compare, precision)
    total_steps = (warmups + rounds) * steps
    with tempfile.TemporaryDirectory(prefix="bert-large-bench-") as folder:
        step_batches = open_batches(
            Path(folder), model, phase=phase, steps=total_steps, global_batch_size=global_batch_size,
            micro_batch_tokens=micro_batch_tokens,
        )  # fmt: skip
        # As in training, the loader's process starts before the weights exist.
        batches = iterate_steps(step_batches, 0, total_steps, workers)
        chosen = apply_precision(precision)
        trained = BertForPreTraining(model, compared.engine)
        trained.initialize(SEED)
        runner = build_runner(trained, chosen, global_batch_size=global_batch_size)
        compared, trainings, differences = _keep_those_that_agree(
            compared, runner, step_batches, hugging_face_batch_size
        )
        ours = _OurTraining(runner, compared.engine, batches, steps)
        contenders = _make_contenders(ours, compared, trainings, step_batches, hugging_face_batch_size)
        variants = {name: Variant(its.run, its.prepare) for name, its in contenders.items()}
        timings = alternate(variants, rounds=rounds, warmups=warmups)
        peak = peak_memory_bytes()
        data = _data_figures(step_batches, min(total_steps, 3), phase)
    ours.prepare(0)
    optimizer = measure_optimizer(
        trained, runner.optimizer, max_norm=runner.max_gradient_norm, rounds=max(rounds, _OPTIMIZER_ROUNDS), warmups=1
    )
    timing = timings[compared.engine.name]
    return {
        "benchmark": "train",
        "phase": phase,
        **describe_model(model),
        "includes": "embeddings, encoder, both pretraining heads, clipping, optimizer, waiting for data",
        "precision": precision,
        "engine": compared.engine.name,
        "compared": compared.names,
        "not_comparable": differences,
        "global_batch_size": global_batch_size,
        "micro_batch_tokens": micro_batch_tokens,
        "data_workers": workers,
        "steps_per_round": steps,
        "rounds": rounds,
        "warmups": warmups,
        **data,
        **_throughput(timings, compared.engine.name, compared.names, steps * global_batch_size),
        "hugging_face_batch_size": hugging_face_batch_size if compared.forms else None,
        "data_wait_share": ours.data_wait_share(warmups * steps),
        "data_loading_share": data["data_loading_seconds"] * steps / timing.median,
        "peak_memory_bytes": peak,
        "peak_memory_includes_hugging_face": bool(compared.forms),
        **optimizer,
        "optimizer_share": optimizer["optimizer_seconds"] * steps / timing.minimum,
        "seconds": as_figures(timings, 1 / steps),
        **describe_software(),
    }


def _data_figures(batches: StepBatches, steps: int, phase: int) -> dict[str, float]:
    """Return how long the sequences are, and the least time in which one process reads and decodes a step's records.

    Beyond a step's own time, training would wait for data however far ahead the loader began.
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


def _throughput(
    timings: Mapping[str, Timing], engine: str, compared: Sequence[str], sequences: int
) -> dict[str, float]:
    """Return sequences per second of the fastest round, and with `_median` of the middle one, and their ratios."""
    figures = {}
    for suffix, seconds in best_and_median(timings):
        figures[f"sequences_per_second{suffix}"] = sequences / seconds[engine]
        for name in compared:
            figures[f"{name}_sequences_per_second{suffix}"] = sequences / seconds[name]
            figures[f"over_{name}{suffix}"] = seconds[name] / seconds[engine]
    return figures


def render(figures: dict[str, Any]) -> str:
    """Return the figures as text."""
    engine = figures["engine"]
    rows = [["", "seconds a step, min", "median", "sequences/s, max", "median", f"{engine} over it", "of medians"]]
    for name in (engine, *figures["compared"]):
        its, is_ours = figures["seconds"][name], name == engine
        prefix = "" if is_ours else f"{name}_"
        rate = [f"{figures[f'{prefix}sequences_per_second{suffix}']:.3f}" for suffix in ("", "_median")]
        over = ["1", "1"] if is_ours else [f"{figures[f'over_{name}{suffix}']:.3f}" for suffix in ("", "_median")]
        rows.append([name, *seconds_cells(its), *rate, *over])
    beside = "with Hugging Face's model" if figures["peak_memory_includes_hugging_face"] else "without the loader"
    lines = [
        f"phase {figures['phase']}, {figures['layers']} layers with both heads ({figures['vocab_size']} words), "
        f"{figures['parameters']} parameters, {figures['precision']}, engine {figures['engine']}, "
        f"{figures['global_batch_size']} sequences a step of {figures['tokens_per_sequence']:.1f} tokens on average, "
        f"{figures['rounds']} alternating rounds, {figures['threads']} threads",
        format_rows(rows),
        *not_comparable_lines(figures),
        f"waiting for data: {figures['data_wait_share']:.3%} of the step; reading and decoding it takes "
        f"{figures['data_loading_seconds']:.4f} s in the loader",
        f"optimizer: {figures['optimizer_seconds']:.4f} s, {figures['optimizer_over_bound']:.3f} times its memory "
        f"traffic at {figures['copy_bytes_per_second'] / 1e9:.1f} GB/s; clipping {figures['clip_seconds']:.4f} s, "
        f"both {figures['clip_and_optimizer_over_bound']:.3f} times",
        f"peak memory: {figures['peak_memory_bytes'] / 2**30:.2f} GiB, {beside}",
    ]
    return "\n".join(lines)
