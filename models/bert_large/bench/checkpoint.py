"""`bert-large bench checkpoint`: how long training stands still while a checkpoint is saved.

All of saving holds training up, nothing of it goes on in the background: the main rank writes weights and both moments,
flushes them to the disk, reads them back to check them, and deletes older checkpoints, while the other ranks wait.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from bert_large.bench.report import describe_model, format_rows, seconds_cells
from bert_large.bench.training import SEED, build_runner
from bert_large.config.model import ModelConfig
from bert_large.engines import resolve_engine
from bert_large.engines.precision import apply_precision
from bert_large.model.bert import BertForPreTraining
from bert_large.model.pretrained import weights_of
from bert_large.observe.machine import describe_software
from bert_large.observe.timing import Variant, alternate, as_figures, best_and_median
from bert_large.optim.build import moment_names, set_moments
from bert_large.train.checkpoint import (
    TrainingState,
    bytes_to_save,
    remove_old_checkpoints,
    save_checkpoint,
    save_tensors,
)
from bert_large.train.settings import SETTINGS

_KEPT = SETTINGS["keep_checkpoints"].default
_COPIES = 3
"""Of every weight's bytes in a checkpoint: the weight and two moments."""


def measure(
    *,
    model: ModelConfig,
    engine: str,
    precision: str,
    folder: Path,
    save_every: int,
    step_seconds: float | None,
    rounds: int,
    warmups: int,
) -> dict[str, Any]:
    """Return the figures of saving training checkpoints into a new folder inside `folder`, which is deleted again.

    "save" is what training waits for, "write" the same tensors written and flushed alone: the rest checks them.
    `step_seconds`, a step's time, gives the share of time that saves every `save_every` steps take.
    """
    operations, _ = resolve_engine(engine, precision)
    trained = BertForPreTraining(model, operations)
    trained.initialize(SEED)
    optimizer = build_runner(trained, apply_precision(precision), global_batch_size=1).optimizer
    weights = weights_of(trained)
    set_moments(
        trained, optimizer, {moment: its.abs() for name, its in weights.items() for moment in moment_names(name)}, 1
    )
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".bert-large-bench-", dir=folder) as scratch:

        def save(round_: int) -> None:
            save_checkpoint(Path(scratch), trained, optimizer, TrainingState(round_ + 1, round_ + 1), {})
            remove_old_checkpoints(Path(scratch), _KEPT)

        def write(round_: int) -> None:
            for copy in range(_COPIES):
                shapes = {name: its.shape for name, its in weights.items()}
                save_tensors(Path(scratch) / f"alone-{copy}.safetensors", shapes, weights.items())

        timings = alternate({"save": Variant(save), "write": Variant(write)}, rounds=rounds, warmups=warmups)
    saved_bytes = bytes_to_save(weights)
    figures: dict[str, Any] = {
        "benchmark": "checkpoint",
        **describe_model(model),
        "precision": precision,
        "engine": operations.name,
        "parameters": sum(its.numel() for its in weights.values()),
        "checkpoint_bytes": saved_bytes,
        "rounds": rounds,
        "warmups": warmups,
        "save_every": save_every,
        "step_seconds": step_seconds,
        "background_seconds": 0.0,
    }
    for suffix, seconds in best_and_median(timings):
        figures[f"blocking_seconds{suffix}"] = seconds["save"]
        figures[f"bytes_per_second{suffix}"] = saved_bytes / seconds["save"]
        if step_seconds is not None:
            figures[f"share_of_time{suffix}"] = seconds["save"] / (seconds["save"] + save_every * step_seconds)
    return {**figures, "seconds": as_figures(timings), **describe_software()}


def render(figures: dict[str, Any]) -> str:
    """Return the figures as text."""
    rows = [["", "seconds, min", "median", "GB/s, max", "median"]]
    for name, its in figures["seconds"].items():
        rates = [f"{figures['checkpoint_bytes'] / its[which] / 1e9:.2f}" for which in ("minimum", "median")]
        rows.append([name, *seconds_cells(its), *rates])
    lines = [
        f"a checkpoint of {figures['layers']} layers with both heads ({figures['vocab_size']} words), "
        f"{figures['parameters']} parameters and their moments: {figures['checkpoint_bytes'] / 1e9:.2f} GB, "
        f"{figures['rounds']} alternating rounds",
        format_rows(rows),
        "training waits for all of save, nothing goes on in the background; write is the same bytes unchecked",
    ]
    if figures["step_seconds"] is not None:
        lines.append(
            f"every {figures['save_every']} steps of {figures['step_seconds']:g} s: {figures['share_of_time']:.2%} of "
            f"the time, by medians {figures['share_of_time_median']:.2%}"
        )
    return "\n".join(lines)
