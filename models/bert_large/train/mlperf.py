"""The content of a run's MLPerf log: its settings and the sizes of its data."""

from __future__ import annotations

from typing import Any

from bert_large.config.training import DataConfig, MlperfConfig, OptimConfig, TrainConfig
from bert_large.data.dataset import Dataset
from bert_large.data.folders import find_training_folder, list_shards
from bert_large.data.loader import StepBatches
from bert_large.distributed.collectives import Ranks
from bert_large.observe.machine import read_cpu_model
from bert_large.observe.mlperf import MlperfLog, RunTimes
from bert_large.storage.atomic import drop_from_page_cache
from bert_large.train.cadence import Cadence
from bert_large.train.evaluate import count_eval_records


def forget_records(data: DataConfig, ranks: Ranks) -> None:
    """Drop the records from this host's page cache: MLPerf requires runs to start with a cold cache.

    The kernel is asked to drop each shard, which needs no privileges; pages mapped by other processes stay. All ranks
    return together, when every host is done.
    """
    if ranks.local_rank == 0:
        folders = [find_training_folder(data.dataset_dir, data.max_seq_length), data.eval_dir]
        for shard in (shard for folder in folders if folder is not None for shard in list_shards(folder)):
            drop_from_page_cache(shard)
    ranks.wait_for_all()


def open_log(
    config: MlperfConfig, optim: OptimConfig, train: TrainConfig, *, step_batches: StepBatches, eval_dataset: Dataset,
    first_samples: int, times: RunTimes,
) -> MlperfLog:  # fmt: skip
    """Open the log of a run that starts or resumes after `first_samples` samples, on the main rank."""
    return MlperfLog(
        config.log,
        output_dir=train.output_dir,
        first_samples=first_samples,
        times=times,
        settings=submission_settings(config, optim, train),
        data={
            "max_sequence_length": step_batches.dataset.shape.max_seq_length,
            "train_samples": step_batches.dataset.count_records(),
            "eval_samples": count_eval_records(eval_dataset, train.eval_samples),
            # Of the first step: micro-batches are cut by tokens, so other steps may have one more or less.
            "gradient_accumulation_steps": step_batches.count(0),
        },
        samples_of_block=Cadence(train).block_length,
    )


def submission_settings(config: MlperfConfig, optim: OptimConfig, train: TrainConfig) -> dict[str, Any]:
    """Return the log's keys and values for the submission and for the run's settings."""
    return {
        "submission_benchmark": "bert",
        "submission_division": config.division,
        "submission_org": config.submitter,
        "submission_platform": config.platform or read_cpu_model(),
        "submission_status": config.status,
        "seed": train.seed,
        "global_batch_size": train.global_batch_size,
        "opt_name": optim.optimizer,
        "opt_base_learning_rate": optim.learning_rate,
        "opt_lamb_epsilon": optim.epsilon,
        "opt_lamb_beta_1": optim.beta_1,
        "opt_lamb_beta_2": optim.beta_2,
        "opt_lamb_weight_decay_rate": optim.weight_decay,
        "opt_gradient_clip_norm": optim.max_gradient_norm,
        "opt_lamb_learning_rate_decay_poly_power": optim.decay_power,
        "opt_learning_rate_training_steps": optim.total_steps,
        "opt_learning_rate_warmup_steps": optim.warmup_steps,
        "num_warmup_steps": optim.warmup_steps,
        "start_warmup_step": optim.start_warmup_step,
    }
