"""Data and optimizer steps of the benchmarks that train: random records, read as in training, and a `StepRunner`."""

from __future__ import annotations

from pathlib import Path

from bert_large.bench.options import PhaseOptions
from bert_large.bench.synthetic import write_dataset
from bert_large.config.model import ModelConfig
from bert_large.config.training import PHASE_SEQ_LENGTHS, OptimConfig
from bert_large.data.dataset import Dataset, check_training_data
from bert_large.data.loader import StepBatches
from bert_large.data.order import BatchSizes, SampleOrder
from bert_large.data.record import RecordLimits
from bert_large.distributed.collectives import Ranks
from bert_large.distributed.gradients import GradientSum
from bert_large.distributed.sharding import ParameterShards
from bert_large.engines.precision import Precision
from bert_large.model.bert import BertForPreTraining
from bert_large.optim.build import build_optimizer, build_schedule
from bert_large.train.step import StepRunner

SEED = 42
LEARNING_RATE = 1e-4


def open_batches(folder: Path, model: ModelConfig, options: PhaseOptions, *, steps: int) -> StepBatches:
    """Write `steps` global batches of records into `folder` and return them as training reads them.

    They are read in file order: each global batch then has nearly the same number of tokens.
    """
    phase, batch_size = options.phase, options.batch_size
    shards = folder / f"seq_{PHASE_SEQ_LENGTHS[phase]}"
    shards.mkdir()
    write_dataset(shards, phase=phase, batches=steps, batch_size=batch_size, vocab_size=model.vocab_size)
    limits = RecordLimits(model.vocab_size, model.max_position_embeddings)
    dataset = Dataset.open(shards, folder / "data_index", build=True, limits=limits)
    check_training_data(dataset, max_seq_length=PHASE_SEQ_LENGTHS[phase], phase=phase)
    return StepBatches(
        dataset=dataset, order=SampleOrder(len(dataset), SEED, shuffle=False), batch_sizes=BatchSizes(batch_size),
        micro_batch_tokens=options.micro_batch_tokens, rank=0, world_size=1,
    )  # fmt: skip


def build_runner(
    model: BertForPreTraining,
    precision: Precision,
    *,
    global_batch_size: int,
    ranks: Ranks | None = None,
    gradient_sum: GradientSum | None = None,
    zero1: bool = False,
    optim: OptimConfig | None = None,
) -> StepRunner:
    """Return the runner of optimizer steps, on one rank unless `ranks` is given, with LAMB unless `optim` is."""
    ranks = ranks or Ranks()
    optim = optim or OptimConfig(
        learning_rate=LEARNING_RATE, total_steps=1_000_000
    )  # the learning rate never reaches 0
    shards = ParameterShards(model, ranks) if zero1 else None
    owned = None if shards is None else shards.owned
    return StepRunner(
        model=model,
        # Compared engines share the model and its optimizer, so the optimizer looks up the engine at every step.
        optimizer=build_optimizer(model, optim, lambda arrays, settings: model.engine.lamb(arrays, settings), owned),
        schedule=build_schedule(optim),
        ranks=ranks,
        precision=precision,
        batch_sizes=BatchSizes(global_batch_size),
        max_gradient_norm=optim.max_gradient_norm,
        seed=SEED,
        gradient_sum=gradient_sum or GradientSum(),
        shards=shards,
    )
