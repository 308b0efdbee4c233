"""What the MLPerf log says of a run: its settings as used, its data as counted."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

from bert_large.config.training import DataConfig, MlperfConfig, OptimConfig, TrainConfig
from bert_large.data.dataset import Dataset
from bert_large.data.folders import find_training_folder, list_shards
from bert_large.data.loader import StepBatches
from bert_large.distributed.collectives import Ranks
from bert_large.observe.mlperf import MlperfLog, RunTimes
from bert_large.storage.atomic import drop_from_page_cache
from bert_large.train.evaluate import count_eval_records


def forget_records(data: DataConfig, ranks: Ranks) -> None:
    """Drop what this machine keeps of the records in memory: an MLPerf run begins with a cold cache.

    The system is asked to, shard by shard, which needs no privilege; pages that another process has mapped stay. All
    ranks return together, when every machine is done.
    """
    if ranks.local_rank == 0:
        folders = [find_training_folder(data.dataset_dir, data.max_seq_length), data.eval_dir]
        for shard in (shard for folder in folders if folder is not None for shard in list_shards(folder)):
            drop_from_page_cache(shard)
    ranks.wait_for_all()


def open_log(
    config: MlperfConfig,
    optim: OptimConfig,
    train: TrainConfig,
    *,
    step_batches: StepBatches,
    eval_dataset: Dataset,
    first_samples: int,
    times: RunTimes,
) -> MlperfLog:
    """Open the log of a run that begins, or goes on, after `first_samples` samples. For the main rank only."""
    return MlperfLog(
        config.log,
        output_dir=train.output_dir,
        first_samples=first_samples,
        times=times,
        settings=describe_run(config, optim, train),
        data={
            "max_sequence_length": step_batches.dataset.shape.max_seq_length,
            "train_samples": len(step_batches.dataset),
            "eval_samples": count_eval_records(eval_dataset, train.eval_samples),
            # Micro-batches are cut by tokens, so that other steps may have one more or less than the first.
            "gradient_accumulation_steps": step_batches.count(0),
        },
        samples_of_block=partial(samples_of_block, train=train),
    )


def describe_run(config: MlperfConfig, optim: OptimConfig, train: TrainConfig) -> dict[str, Any]:
    """Return the log's keys for what is submitted and for the settings that the run uses."""
    return {
        "submission_benchmark": "bert",
        "submission_division": config.division,
        "submission_org": config.submitter,
        "submission_platform": config.platform or read_cpu_name(),
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


def read_cpu_name() -> str:
    """Return the processor's name, as Linux tells it."""
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    found = re.search(r"^model name\s*:\s*(.+)$", text, flags=re.MULTILINE)
    return found[1] if found else "unnamed CPU"


def samples_of_block(samples: int, train: TrainConfig) -> int:
    """Return how many samples are trained from `samples` on until the next evaluation or the end of the run."""
    batch, interval = train.global_batch_size, train.eval_every_samples
    stops = [(samples // interval + 1) * interval, train.max_steps * batch]
    if train.max_samples is not None:
        stops.append(train.max_samples)
    return -(-min(stops) // batch) * batch - samples
