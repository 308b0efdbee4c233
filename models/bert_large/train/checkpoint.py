"""Checkpoints: weights, optimizer moments and progress, written whole or not at all, and known to be intact.

`checkpoints/step-00000100/` holds `model.safetensors` (weights), `optimizer.safetensors` (moments, named
`exp_avg.PARAMETER` and `exp_avg_sq.PARAMETER`), `state.json` (progress and the run's identity) and `checksums.json` of
these. It is written under another name, flushed to disk, read back from there, and renamed; older ones are deleted
after that only. Parameters have the names of `model.bert` there, and in a model folder those of their architecture.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bert_large.distributed.collectives import Ranks
from bert_large.distributed.sharding import ParameterShards
from bert_large.errors import DamageError, InputError, WriteError
from bert_large.model.pretrained import load_weights, weights_of
from bert_large.model.tensor_file import read_tensors, save_tensors
from bert_large.optim.build import MOMENTS, get_moments, held_parameters, moment_names, set_moments
from bert_large.storage.atomic import (
    drop_from_page_cache,
    explain_write_errors,
    remove_tree,
    require_free_bytes,
    sync_folder,
    write_atomically,
)
from bert_large.storage.integrity import check_checksums, write_checksums
from bert_large.storage.output_folder import WEIGHTS_FILE
from bert_large.train.progress import Progress, progress_from

_PREFIX = "step-"
_STEP = re.compile(_PREFIX + r"\d{8,}")
_PARTIAL = ".partial-"
MOMENTS_FILE = "optimizer.safetensors"
STATE_FILE = "state.json"


def save_checkpoint(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    identity: Mapping[str, Any],
    shards: ParameterShards | None = None,
) -> Path:
    """Write `folder/step-…` and return it.

    With the optimizer's state in `shards`, the main rank calls this while all others call `hand_over_moments`.
    """
    moments = _all_moments(model, optimizer, shards)
    try:
        return write_checkpoint(folder, weights_of(model), moments, progress, identity)
    finally:
        for _ in moments:  # if it failed: others wait to hand over theirs
            pass


def hand_over_moments(model: nn.Module, optimizer: torch.optim.Optimizer, shards: ParameterShards) -> None:
    """Give the main rank, which saves a checkpoint, the moments that this rank keeps."""
    for _ in _all_moments(model, optimizer, shards):
        raise AssertionError("the main rank calls save_checkpoint")


def _all_moments(
    model: nn.Module, optimizer: torch.optim.Optimizer, shards: ParameterShards | None
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the moments of all parameters, by name; from shards they come one at a time, to the main rank alone."""
    kept = get_moments(model, optimizer)
    for parameter, _ in model.named_parameters():
        for name in moment_names(parameter):
            moment = kept.get(name) if shards is None else shards.send_to_main(parameter, kept.get(name))
            if moment is not None:
                yield name, moment


def write_checkpoint(
    folder: Path,
    weights: dict[str, torch.Tensor],
    moments: Iterable[tuple[str, torch.Tensor]],
    progress: Progress,
    identity: Mapping[str, Any],
) -> Path:
    """Write `folder/step-…` from weights by name and moments named as `get_moments` does, and return it."""
    target = folder / f"{_PREFIX}{progress.step:08d}"
    partial = folder / f"{_PARTIAL}{target.name}"
    needed_bytes = bytes_to_save(weights)
    with explain_write_errors(target, needed_bytes):
        folder.mkdir(parents=True, exist_ok=True)
        remove_tree(partial, ignore_errors=True)
        require_free_bytes(target, needed_bytes)
        try:
            partial.mkdir()
            shapes = {name: weight.shape for name, weight in weights.items()}
            save_tensors(partial / WEIGHTS_FILE, shapes, weights.items())
            moment_shapes = {moment: shape for name, shape in shapes.items() for moment in moment_names(name)}
            save_tensors(partial / MOMENTS_FILE, moment_shapes, moments)
            state = {**dataclasses.asdict(progress), "identity": dict(identity)}
            with write_atomically(partial / STATE_FILE) as file:
                file.write(json.dumps(state, indent=1).encode())
            write_checksums(partial)
            _read_back(partial)
        except (OSError, WriteError):
            remove_tree(partial, ignore_errors=True)  # room for the log to say so
            raise
        if os.path.lexists(target):  # written again, as when a run goes back to a checkpoint elsewhere
            _remove(target)
        partial.rename(target)
        sync_folder(folder)
    return target


def _read_back(folder: Path) -> None:
    """Check a checkpoint as the disk has it: what memory keeps of its files is forgotten first, as far as it can be."""
    for path in folder.iterdir():
        drop_from_page_cache(path)
    try:
        check_checksums(folder)
    except DamageError as error:
        raise WriteError(f"the disk does not give back what was written to it: {error}") from error


def bytes_to_save(weights: Mapping[str, torch.Tensor]) -> int:
    """Return the size of a checkpoint's tensors: the weights and as many of each moment."""
    return (1 + len(MOMENTS)) * sum(weight.nbytes for weight in weights.values())


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a run, oldest first. They were whole once: `check_intact` tells if they still are."""
    return sorted((path for path in folder.glob(f"{_PREFIX}*") if _STEP.fullmatch(path.name)), key=_step_of)


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix(_PREFIX))


def check_intact(checkpoint: Path) -> None:
    """Read a whole checkpoint; raise `DamageError` if anything in it is not as it was written."""
    if not checkpoint.is_dir():
        raise DamageError(f"{checkpoint} is no checkpoint to resume from: it is no folder")
    check_checksums(checkpoint, required=(WEIGHTS_FILE, MOMENTS_FILE, STATE_FILE))
    read_state(checkpoint)


def newest_intact(checkpoints: Sequence[Path]) -> tuple[Path | None, list[DamageError]]:
    """Return the newest of `checkpoints` (oldest first) that is intact, and what is wrong with newer ones.

    Raises `InputError` when there are checkpoints but none is intact.
    """
    damages: list[DamageError] = []
    for checkpoint in reversed(checkpoints):
        try:
            check_intact(checkpoint)
            return checkpoint, damages
        except DamageError as error:
            damages.append(error)
    if damages:
        raise InputError(
            f"none of the {len(damages)} checkpoints in {checkpoints[0].parent} is intact, nothing was deleted: "
            f"{'; '.join(map(str, damages))}. Put one back from a copy, or start anew in an empty OUTPUT_DIR"
        )
    return None, []


def remove_old_checkpoints(folder: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints, and what a kill left of others.

    To be called when the newest was just written: that one is known to be intact.
    """
    for path in list_checkpoints(folder)[:-keep]:
        _remove(path)
    remove_partial_checkpoints(folder)


def remove_partial_checkpoints(folder: Path) -> None:
    """Delete what a kill left half-written or half-deleted."""
    for path in folder.glob(f"{_PARTIAL}*"):
        remove_tree(path)


def remove_later_checkpoints(folder: Path, step: int) -> list[Path]:
    """Delete checkpoints after `step`: a run that goes back must not be resumed from what lies ahead of its metrics.

    Returns them.
    """
    later = [path for path in list_checkpoints(folder) if _step_of(path) > step]
    for path in later:
        _remove(path)
    return later


def _remove(checkpoint: Path) -> None:
    """Delete a checkpoint, which loses its name first: one that is half-deleted must not be taken for a damaged one."""
    doomed = checkpoint.with_name(f"{_PARTIAL}removed-{checkpoint.name}")
    remove_tree(doomed, ignore_errors=True)
    checkpoint.rename(doomed)
    remove_tree(doomed)


def read_state(checkpoint: Path) -> tuple[Progress, dict[str, Any]]:
    """Return progress and run identity of a checkpoint."""
    try:
        state = json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8"))
        if isinstance(state, dict):  # those that older versions did not write
            defaults = dataclasses.asdict(Progress())
            newer = ("loss_scale", "masked_lm_accuracy", "skipped", "loss_trend")
            state = {name: defaults[name] for name in newer} | state
        identity = state.pop("identity", None) if isinstance(state, dict) else None
        progress = progress_from(state)
        if not isinstance(identity, dict):
            raise ValueError(f"identity is {str(identity)[:60]}")
        return progress, identity
    except FileNotFoundError:
        raise DamageError(f"{checkpoint} is no checkpoint to resume from: it has no {STATE_FILE}") from None
    except (ValueError, RecursionError) as error:
        raise DamageError(f"{checkpoint / STATE_FILE} is damaged: {error}; remove that checkpoint") from None


def load_checkpoint(
    checkpoint: Path, model: nn.Module, optimizer: torch.optim.Optimizer, ranks: Ranks | None = None
) -> Progress:
    """Restore weights and moments, and return the progress.

    Of several ranks only the main one reads, and sends the others what it read: their hosts need not see the folder.
    """
    ranks = ranks or Ranks()
    progress, moments = Progress(), {}
    names = [name for name, _ in model.named_parameters()]
    with ranks.failing_together():
        if ranks.is_main:
            progress, _ = read_state(checkpoint)
            load_weights(checkpoint / WEIGHTS_FILE, model)
            moments = read_tensors(
                checkpoint / MOMENTS_FILE, [moment for name in names for moment in moment_names(name)]
            )
    progress = progress_from(ranks.broadcast(dataclasses.asdict(progress)))
    ranks.broadcast_tensors(list(weights_of(model).values()))
    held, held_moments = held_parameters(model, optimizer), {}
    for name, parameter in model.named_parameters():
        for moment in moment_names(name):
            tensor = moments.pop(moment) if ranks.is_main else torch.empty_like(parameter.data)
            ranks.broadcast_tensors([tensor])
            if name in held:
                held_moments[moment] = tensor
    set_moments(model, optimizer, held_moments, progress.updates)
    return progress
