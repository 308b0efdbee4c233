"""`bert-large bench train`: whole optimizer steps on sequences of real lengths, against Hugging Face's padded ones."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from bert_large.bench.compared import figure_name, resolve_compared
from bert_large.bench.hugging_face import HuggingFaceTraining, pad
from bert_large.bench.machine import describe_software, peak_memory_bytes
from bert_large.bench.optimizer import measure_optimizer
from bert_large.bench.report import format_rows
from bert_large.bench.synthetic import phase_lengths, write_dataset
from bert_large.bench.timing import Timing, Variant, alternate
from bert_large.config import PHASE_SEQ_LENGTHS, ModelConfig, OptimConfig
from bert_large.data.batch import RaggedBatch
from bert_large.data.dataset import Dataset, check_training_data
from bert_large.data.loader import StepBatches, iterate_steps
from bert_large.data.order import SampleOrder
from bert_large.data.record import RecordLimits
from bert_large.distributed.environment import Ranks
from bert_large.distributed.gradients import GradientSum
from bert_large.distributed.sharding import ParameterShards
from bert_large.engines.precision import Precision, apply_precision
from bert_large.model.bert import BertForPreTraining
from bert_large.model.operations import Operations
from bert_large.observe.metrics import StepFigures
from bert_large.optim.build import build_optimizer, build_schedule
from bert_large.train.step import StepRunner

_SEED = 42
_OPTIMIZER_ROUNDS = 7
_LEARNING_RATE = 1e-4


def open_batches(
    folder: Path, model: ModelConfig, *, phase: int, steps: int, global_batch_size: int, micro_batch_tokens: int
) -> StepBatches:
    """Make `steps` global batches of records in `folder` and return them as training reads them.

    They are read in file order, as every global batch has the lengths' distribution by itself: rounds do the same work.
    """
    shards = folder / f"seq_{PHASE_SEQ_LENGTHS[phase]}"
    shards.mkdir()
    write_dataset(shards, phase=phase, batches=steps, batch_size=global_batch_size, vocab_size=model.vocab_size)
    limits = RecordLimits(model.vocab_size, model.max_position_embeddings)
    dataset = Dataset.open(shards, folder / "data_index", build=True, limits=limits)
    check_training_data(dataset, max_seq_length=PHASE_SEQ_LENGTHS[phase], phase=phase)
    return StepBatches(
        dataset=dataset,
        order=SampleOrder(len(dataset), _SEED, shuffle=False),
        global_batch_size=global_batch_size,
        micro_batch_tokens=micro_batch_tokens,
        rank=0,
        world_size=1,
    )


def build_runner(
    model: BertForPreTraining,
    precision: Precision,
    *,
    global_batch_size: int,
    ranks: Ranks | None = None,
    gradient_sum: GradientSum | None = None,
    zero1: bool = False,
) -> StepRunner:
    """Return what carries out steps, on one rank unless told otherwise."""
    ranks = ranks or Ranks()
    optim = OptimConfig(learning_rate=_LEARNING_RATE, total_steps=1_000_000)  # the rate never reaches 0
    shards = ParameterShards(model, ranks) if zero1 else None
    return StepRunner(
        model=model,
        # Engines take turns with one model, its optimizer too.
        optimizer=build_optimizer(
            model,
            optim,
            lambda arrays, settings: model.engine.lamb(arrays, settings),
            None if shards is None else shards.owned,
        ),
        schedule=build_schedule(optim),
        ranks=ranks,
        precision=precision,
        global_batch_size=global_batch_size,
        max_gradient_norm=optim.max_gradient_norm,
        seed=_SEED,
        gradient_sum=gradient_sum or GradientSum(),
        shards=shards,
    )


@dataclass
class _OurTraining:
    """Steps on an engine as `train.loop` runs them: wait for the loader, then train."""

    runner: StepRunner
    engine: Operations
    batches: Iterator[list[RaggedBatch]]
    steps_per_round: int
    figures: list[StepFigures] = field(default_factory=list)

    def prepare(self, round_: int) -> None:
        self.runner.model.engine = self.engine

    def run(self, round_: int) -> None:
        for step in range(round_ * self.steps_per_round, (round_ + 1) * self.steps_per_round):
            started = time.perf_counter()
            micro_batches = next(self.batches)
            waited = time.perf_counter() - started
            self.figures.append(self.runner.run(step, micro_batches, waited, lambda done: None))


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
        self._padded = [self._pad(step) for step in range(first, first + self.steps_per_round)]

    def _pad(self, step: int) -> list[dict[str, torch.Tensor]]:
        dataset, first = self.batches.dataset, step * self.batches.global_batch_size
        numbers = self.batches.order.record_numbers(first, first + self.batches.global_batch_size)
        return [
            pad(dataset.read_all(numbers[start : start + self.batch_size]), dataset.shape.max_seq_length)
            for start in range(0, len(numbers), self.batch_size)
        ]

    def run(self, round_: int) -> None:
        for micro_batches in self._padded:
            self.training.step(micro_batches)


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
    operations = compared.engine
    total_steps = (warmups + rounds) * steps
    with tempfile.TemporaryDirectory(prefix="bert-large-bench-") as folder:
        step_batches = open_batches(
            Path(folder), model, phase=phase, steps=total_steps, global_batch_size=global_batch_size,
            micro_batch_tokens=micro_batch_tokens,
        )  # fmt: skip
        # As in training, the loader's process starts before the weights exist.
        batches = iterate_steps(step_batches, 0, total_steps, workers)
        chosen = apply_precision(precision)
        trained = BertForPreTraining(model, operations)
        trained.initialize(_SEED)
        runner = build_runner(trained, chosen, global_batch_size=global_batch_size)
        ours = _OurTraining(runner, operations, batches, steps)
        variants = {operations.name: Variant(ours.run, ours.prepare)}
        for other in compared.other_engines:
            its = _OurTraining(runner, other, iterate_steps(step_batches, 0, total_steps, workers=0), steps)
            variants[other.name] = Variant(its.run, its.prepare)
        for form in compared.forms:
            torch.manual_seed(_SEED)
            training = HuggingFaceTraining(
                model, form, precision=chosen, learning_rate=_LEARNING_RATE, max_norm=runner.max_gradient_norm
            )
            theirs = _TheirTraining(training, step_batches, hugging_face_batch_size, steps)
            variants[figure_name(form)] = Variant(theirs.run, theirs.prepare)
        timings = alternate(variants, rounds=rounds, warmups=warmups)
        peak = peak_memory_bytes()
        loading_seconds = _loading_seconds(step_batches, min(total_steps, 3))
    timed_figures = ours.figures[warmups * steps :]
    dataset = step_batches.dataset
    ours.prepare(0)
    optimizer = measure_optimizer(
        runner.model,
        runner.optimizer,
        max_norm=runner.max_gradient_norm,
        rounds=max(rounds, _OPTIMIZER_ROUNDS),
        warmups=1,
    )
    return {
        "benchmark": "train",
        "phase": phase,
        "layers": model.num_hidden_layers,
        "hidden_size": model.hidden_size,
        "attention_heads": model.num_attention_heads,
        "intermediate_size": model.intermediate_size,
        "vocab_size": model.vocab_size,
        "includes": "embeddings, encoder, both pretraining heads, clipping, optimizer, waiting for data",
        "dropout": model.hidden_dropout_prob,
        "precision": precision,
        "engine": operations.name,
        "compared": compared.names,
        "global_batch_size": global_batch_size,
        "micro_batch_tokens": micro_batch_tokens,
        "data_workers": workers,
        "steps_per_round": steps,
        "rounds": rounds,
        "warmups": warmups,
        "tokens_per_sequence": dataset.total_tokens() / len(dataset),
        "distribution_tokens_per_sequence": phase_lengths(phase).mean,
        **_throughput(timings, operations.name, compared.names, steps * global_batch_size),
        "hugging_face_batch_size": hugging_face_batch_size if compared.forms else None,
        "data_wait_share": sum(step.data_seconds for step in timed_figures)
        / sum(step.seconds for step in timed_figures),
        "data_loading_seconds": loading_seconds,
        "data_loading_share": loading_seconds * steps / timings[operations.name].median,
        "peak_memory_bytes": peak,
        "peak_memory_includes_hugging_face": bool(compared.forms),
        **optimizer,
        "optimizer_share": optimizer["optimizer_seconds"] * steps / timings[operations.name].minimum,
        "seconds": {name: timing.as_figures(1 / steps) for name, timing in timings.items()},
        **describe_software(),
    }


def _loading_seconds(batches: StepBatches, steps: int) -> float:
    """Return the least time in which one process reads and decodes a step's records.

    Beyond a step's own time, training would wait for data however far ahead the loader began.
    """
    seconds = []
    for step in range(steps):
        started = time.perf_counter()
        _ = batches[step]
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def _throughput(timings: dict[str, Timing], engine: str, compared: Sequence[str], sequences: int) -> dict[str, float]:
    """Return sequences per second of the fastest round, and with `_median` of the middle one, and their ratios."""
    figures = {}
    for suffix, of in (("", "minimum"), ("_median", "median")):
        ours = sequences / getattr(timings[engine], of)
        figures[f"sequences_per_second{suffix}"] = ours
        for name in compared:
            theirs = sequences / getattr(timings[name], of)
            figures[f"{name}_sequences_per_second{suffix}"] = theirs
            figures[f"over_{name}{suffix}"] = ours / theirs
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
        rows.append([name, f"{its['minimum']:.4f}", f"{its['median']:.4f}", *rate, *over])
    beside = "with Hugging Face's model" if figures["peak_memory_includes_hugging_face"] else "without the loader"
    return (
        f"phase {figures['phase']}, {figures['layers']} layers with both heads ({figures['vocab_size']} words), "
        f"{figures['parameters']} parameters, {figures['precision']}, engine {figures['engine']}, "
        f"{figures['global_batch_size']} sequences a step of {figures['tokens_per_sequence']:.1f} tokens on average, "
        f"{figures['rounds']} alternating rounds, {figures['threads']} threads\n"
        f"{format_rows(rows)}\n"
        f"waiting for data: {figures['data_wait_share']:.3%} of the step; reading and decoding it takes "
        f"{figures['data_loading_seconds']:.4f} s in the loader\n"
        f"optimizer: {figures['optimizer_seconds']:.4f} s, {figures['optimizer_over_bound']:.3f} times its memory "
        f"traffic at {figures['copy_bytes_per_second'] / 1e9:.1f} GB/s; clipping {figures['clip_seconds']:.4f} s, "
        f"both {figures['clip_and_optimizer_over_bound']:.3f} times\n"
        f"peak memory: {figures['peak_memory_bytes'] / 2**30:.2f} GiB, {beside}"
    )
