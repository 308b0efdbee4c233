"""The speed of a machine: real optimizer steps of a few layers, measured here, or numbers of another machine."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from bert_large.bench.training import build_runner
from bert_large.config.model import ModelConfig
from bert_large.config.training import MASKED_LM_PROB, DataConfig
from bert_large.data.batch import RaggedBatch, make_batch
from bert_large.data.order import cut_by_tokens
from bert_large.engines import resolve_engine
from bert_large.engines.precision import apply_precision
from bert_large.model.bert import BertForPreTraining, skeleton
from bert_large.model.operations import Operations
from bert_large.model.pretrained import weights_of
from bert_large.observe.flops import product_flops
from bert_large.observe.timing import Timing, Variant, alternate
from bert_large.optim.build import MOMENTS
from bert_large.plan.survey import DataSurvey
from bert_large.train.checked import Run
from bert_large.train.checkpoint import bytes_to_save, write_checkpoint
from bert_large.train.state import TrainingState
from bert_large.train.step import StepRunner

_SECONDS = 20.0
"""Time for the measurement."""
_LAYERS = (1, 3)
"""Layers that are measured of a deeper model: the time is linear in their number."""
_MICRO_BATCHES = 3
"""Largest number of micro-batches of a measured step: the time is linear in their number too."""
_ROUNDS = (3, 15)
_CHECKPOINT_VALUES = 8 << 20
_SHARE_OF_PRODUCTS = 0.7
"""Share of a step's time in which its matrix products would be done alone, of models from BERT-base to BERT-large."""
_DISK_BYTES_PER_SECOND = 400e6
"""Assumed for another machine: checkpoints are written and read back."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """What a machine needs for a model, in seconds."""

    per_token: float
    """Forward and backward pass of one token."""
    per_update: float
    """Optimizer step, apart from the tokens."""
    per_checkpoint_byte: float
    """Writing a checkpoint and reading it back."""
    origin: str
    """How the numbers were found."""


def measure_machine(run: Run, data: DataSurvey) -> Speed:
    """Measure steps of the run's model on its records here; deep models are extrapolated from `_LAYERS`."""
    engine, _ = resolve_engine(run.train.engine, run.train.precision)
    batches = _micro_batches(run, data)
    depth = run.model.num_hidden_layers
    layers = _LAYERS if depth > max(_LAYERS) else (depth,)
    steps = sorted({1, min(_MICRO_BATCHES, len(batches))})
    sequences = sum(batch.sequences for batch in batches)
    variants = {}
    for count in layers:
        runner = _make_runner(run, dataclasses.replace(run.model, num_hidden_layers=count), engine, sequences)
        for size in steps:
            variants[f"{count} layers, {size} micro-batches"] = _step_of(runner, batches[-size:])
    timings = list(_measure(variants).values())
    costs = [_costs(timings[number : number + len(steps)], [sum(b.tokens for b in batches[-size:]) for size in steps])
             for number in range(0, len(timings), len(steps))]  # fmt: skip
    per_token, per_update = (_extrapolate(layers, values, depth) for values in zip(*costs, strict=True))
    measured = " and ".join(map(str, layers))
    return Speed(
        per_token=per_token,
        per_update=per_update,
        per_checkpoint_byte=_measure_disk(run.train.output_dir),
        origin=f"measured here with {measured} of {depth} layers, engine {engine.name}, "
        f"{torch.get_num_threads()} threads",
    )


def describe_machine(run: Run, data: DataSurvey, tokens_per_second: float | None, gflops: float | None) -> Speed:
    """Return the speed of another machine from what is known of it."""
    if tokens_per_second is not None:
        per_token, origin = 1 / tokens_per_second, f"{tokens_per_second:g} tokens per second, as given"
    else:
        assert gflops is not None
        per_token = flops_per_token(run.model, run.data, data.mean_tokens) / (gflops * 1e9 * _SHARE_OF_PRODUCTS)
        origin = f"{gflops:g} GFLOP/s, as given, of which training reaches about {_SHARE_OF_PRODUCTS:.0%}"
    return Speed(per_token=per_token, per_update=0.0, per_checkpoint_byte=1 / _DISK_BYTES_PER_SECOND, origin=origin)


def flops_per_token(model: ModelConfig, data: DataConfig, length: float) -> float:
    """Return the operations of a token's matrix products, forward and backward, in a sequence of mean `length`."""
    tokens = max(1, round(length))
    share = data.masking_rate if data.dynamic_masking else MASKED_LM_PROB
    flops = product_flops(model, torch.tensor([0, tokens]), round(share * tokens))
    return sum(flops.values()) / tokens


def _micro_batches(run: Run, data: DataSurvey) -> list[RaggedBatch]:
    """Return micro-batches as the run cuts them of a global batch, from records in random order; full ones are last."""
    count = min(run.train.global_batch_size, len(data.sample))
    numbers = np.random.default_rng(run.train.seed).permutation(len(data.sample))[:count]
    records = [data.sample[number] for number in numbers]
    lengths = np.array([len(record.input_ids) for record in records], dtype=np.int64)
    cuts = cut_by_tokens(lengths, run.train.micro_batch_tokens)[-_MICRO_BATCHES:]
    return [make_batch(records[cut], range(cut.start, cut.stop)) for cut in cuts]


def _make_runner(run: Run, config: ModelConfig, engine: Operations, sequences: int) -> StepRunner:
    """Return the runner of steps of a model with new weights."""
    model = BertForPreTraining(config, engine)
    model.initialize(run.train.seed)
    precision = apply_precision(run.train.precision)
    return build_runner(model, precision, global_batch_size=sequences, optim=run.optim)


def _step_of(runner: StepRunner, batches: list[RaggedBatch]) -> Variant:
    return Variant(lambda round_: runner.run(round_, batches, 0.0, lambda done: None))


def _measure(variants: dict[str, Variant]) -> dict[str, Timing]:
    """Run every variant once to warm up, then as many alternating rounds as the time allows."""
    alternate(variants, rounds=1, warmups=0)
    round_seconds = sum(timing.minimum for timing in alternate(variants, rounds=1, warmups=0).values())
    rounds = int(min(max(_SECONDS / round_seconds, _ROUNDS[0]), _ROUNDS[1]))
    return alternate(variants, rounds=rounds, warmups=0)


def _costs(timings: list[Timing], tokens: list[int]) -> tuple[float, float]:
    """Return the seconds per token and per update, from steps of one size or two."""
    first, last = timings[0].median, timings[-1].median
    if len(timings) == 1 or last <= first:
        return last / tokens[-1], 0.0
    per_token = min((last - first) / (tokens[-1] - tokens[0]), last / tokens[-1])
    return per_token, last - per_token * tokens[-1]


def _extrapolate(layers: tuple[int, ...], values: tuple[float, ...], depth: int) -> float:
    """Return the value for `depth` layers of a line through the values for `layers`; it does not fall with depth."""
    if len(layers) == 1:
        return values[0]
    slope = max(0.0, (values[1] - values[0]) / (layers[1] - layers[0]))
    return values[1] + slope * (depth - layers[1])


def _measure_disk(output_dir: Path) -> float:
    """Return the seconds per byte of a small checkpoint on the disk of the output folder."""
    place = next(folder for folder in (output_dir, *output_dir.absolute().parents) if folder.is_dir())
    weights = {"weight": torch.zeros(_CHECKPOINT_VALUES)}
    moments = [(f"{name}.weight", weights["weight"]) for name in MOMENTS]
    with tempfile.TemporaryDirectory(prefix=".bert-large-plan-", dir=place) as folder:
        started = time.perf_counter()
        write_checkpoint(Path(folder), weights, moments, TrainingState(), {})
        return (time.perf_counter() - started) / bytes_to_save(weights)


def checkpoint_bytes(model: ModelConfig) -> int:
    """Return the size of a checkpoint."""
    return bytes_to_save(weights_of(skeleton(model)))
