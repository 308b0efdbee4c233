"""`bert-large bench checkpoint`: how long training waits while a checkpoint is saved.

Nothing of saving runs in the background. The main rank writes weights and both moments, flushes them to the disk, reads
them back to check them, and deletes older checkpoints, while the other ranks wait.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from bert_large.bench.options import CheckpointOptions
from bert_large.bench.output import describe_run
from bert_large.bench.training import SEED, build_runner
from bert_large.config.training import TrainConfig
from bert_large.engines import resolve_engine
from bert_large.engines.precision import apply_precision
from bert_large.model.bert import BertForPreTraining
from bert_large.model.pretrained import weights_of
from bert_large.model.tensor_file import save_tensors
from bert_large.observe.timing import Variant, alternate, as_dicts, format_spread, spread
from bert_large.optim.build import moment_names, set_moments
from bert_large.storage.output_folder import make_folder
from bert_large.tables import format_table
from bert_large.train.checkpoint import TrainingState, bytes_to_save, remove_old_checkpoints, save_checkpoint

_KEPT = TrainConfig.keep_checkpoints
_COPIES = 3
"""Tensors that a checkpoint has of each weight: the weight and two moments."""


def measure(options: CheckpointOptions) -> dict[str, Any]:
    """Measure saving training checkpoints into a temporary folder inside the output folder.

    "save" is the time that training waits. "write" only writes and flushes the same tensors: the rest of "save" checks
    them.
    """
    engine, _ = resolve_engine(options.engine, options.precision)
    trained = BertForPreTraining(options.model, engine)
    trained.initialize(SEED)
    optimizer = build_runner(trained, apply_precision(options.precision), global_batch_size=1).optimizer
    weights = weights_of(trained)
    moments = {moment: weight.abs() for name, weight in weights.items() for moment in moment_names(name)}
    set_moments(trained, optimizer, moments, 1)
    make_folder(options.output_dir)
    with tempfile.TemporaryDirectory(prefix=".bert-large-bench-", dir=options.output_dir) as scratch:

        def save(round_: int) -> None:
            save_checkpoint(Path(scratch), trained, optimizer, TrainingState(round_ + 1, round_ + 1), {})
            remove_old_checkpoints(Path(scratch), _KEPT)

        def write(round_: int) -> None:
            shapes = {name: weight.shape for name, weight in weights.items()}
            for copy in range(_COPIES):
                save_tensors(Path(scratch) / f"alone-{copy}.safetensors", shapes, weights.items())

        variants = {"save": Variant(save), "write": Variant(write)}
        timings = alternate(variants, rounds=options.rounds, warmups=options.warmups)
    saved_bytes = bytes_to_save(weights)
    results = {
        **describe_run("checkpoint", options, engine.name),
        "parameters": sum(weight.numel() for weight in weights.values()),
        "checkpoint_bytes": saved_bytes,
        "save_every": options.save_every,
        "step_seconds": options.step_seconds,
    }
    saved = timings["save"]
    results["blocking_seconds"] = spread(saved.seconds)
    results["bytes_per_second"] = spread(saved.rates(saved_bytes))
    if options.step_seconds is not None:
        between = options.save_every * options.step_seconds
        results["share_of_time"] = spread([seconds / (seconds + between) for seconds in saved.seconds])
    return {**results, "seconds": as_dicts(timings)}


def render(results: dict[str, Any]) -> str:
    """Return the results as text."""
    rows = [["", "seconds, median", "GB/s, median"]]
    for name, timing in results["seconds"].items():
        rate = results["checkpoint_bytes"] / timing["median"] / 1e9
        rows.append([name, f"{timing['median']:.4f}", f"{rate:.2f}"])
    lines = [
        f"a checkpoint of {results['layers']} layers with both heads (vocabulary of {results['vocab_size']}), "
        f"{results['parameters']} parameters and their moments: {results['checkpoint_bytes'] / 1e9:.2f} GB, "
        f"{results['rounds']} alternating rounds",
        format_table(rows),
        "training waits for all of save; write is the same bytes without checks",
    ]
    if results["step_seconds"] is not None:
        lines.append(
            f"every {results['save_every']} steps of {results['step_seconds']:g} s: "
            f"{format_spread(results['share_of_time'], '%', 0.01)} of the time"
        )
    return "\n".join(lines)
