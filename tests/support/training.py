"""Parts of training runs that unit tests share: settings, models, optimizers, metrics and checkpoints."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from bert_large.config.training import DataConfig, OptimConfig, TrainConfig
from bert_large.model.bert import BertForPreTraining
from bert_large.observe.metrics import EvalMetrics, StepMetrics
from bert_large.optim.build import build_optimizer
from bert_large.train.run_folder import run_identity

from tests.support.models import tiny_config, tiny_model

OPTIM = OptimConfig(learning_rate=0.01, total_steps=10)
DATA = DataConfig(dataset_dir=Path("data"), max_seq_length=128)
EVALUATION = EvalMetrics(
    samples=50, masked_lm_loss=2.0, masked_lm_accuracy=0.3, next_sentence_loss=0.6, next_sentence_accuracy=0.7,
    most_frequent_token_accuracy=0.05, seconds=9.0,
)  # fmt: skip


def step_metrics(step: int, **changes: Any) -> StepMetrics:
    """Return the metrics of a step of 8 sequences."""
    values: dict[str, Any] = {
        "step": step, "samples": 8 * step, "loss": 3.5 / step, "masked_lm_loss": 3.0 / step,
        "next_sentence_loss": 0.5 / step, "masked_lm_accuracy": 0.25, "next_sentence_accuracy": 0.75,
        "learning_rate": 1e-3, "gradient_norm": 1.5, "sequences_per_second": 4.0, "tokens_per_second": 100.0,
        "seconds": 2.0, "data_seconds": 0.5, "skipped_updates": 0,
    }  # fmt: skip
    return StepMetrics(**values | changes)


def trained(seed: int = 0, steps: int = 2) -> tuple[BertForPreTraining, torch.optim.Optimizer]:
    """Return a model and its optimizer after some updates."""
    model = tiny_model(seed)
    optimizer = build_optimizer(model, OPTIM)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()
    return model, optimizer


def train_config(folder: Path, **changes: Any) -> TrainConfig:
    """Return the settings of a run of 10 steps of 8 sequences."""
    values: dict[str, Any] = {
        "output_dir": folder, "phase": 1, "global_batch_size": 8, "max_steps": 10, "eval_every_samples": 100,
        "save_every": 5,
    }  # fmt: skip
    return TrainConfig(**values | changes)


def identity(folder: Path, **changes: Any) -> dict[str, Any]:
    """Return the identity of a run, with changes to its data's fingerprint, optimizer or training settings."""
    fingerprint = changes.pop("fingerprint", "abc")
    optim = {name: value for name, value in changes.items() if hasattr(OPTIM, name)}
    train = {name: value for name, value in changes.items() if name not in optim}
    return run_identity(
        tiny_config(), DATA, dataclasses.replace(OPTIM, **optim), train_config(folder, **train), fingerprint
    )


def names(folder: Path) -> list[str]:
    """Return the names of a folder's entries."""
    return sorted(path.name for path in folder.iterdir())


def flip_a_bit(path: Path) -> None:
    """Change one bit in the last quarter of a file, which is in a tensor's values if there are any."""
    data = bytearray(path.read_bytes())
    data[len(data) * 3 // 4] ^= 1
    path.write_bytes(data)
