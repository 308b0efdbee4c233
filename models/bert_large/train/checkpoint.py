"""Checkpoints: weights, optimizer moments and training state, written completely or not at all.

`checkpoints/step-00000100/` holds `model.safetensors` (weights), `optimizer.safetensors` (moments, named
`exp_avg.PARAMETER` and `exp_avg_sq.PARAMETER`), `state.json` (training state and identity of the run) and
`checksums.json` of these. A checkpoint is written under a temporary name, flushed, read back from the disk and then
renamed; only after that are older ones deleted. Parameters have the names that `model.bert` gives them, and not those
of their Hugging Face architecture as in a model folder.
"""

from __future__ import annotations

import dataclasses
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
from bert_large.model.pretrained import load_weights, require_finite, weights_of
from bert_large.model.tensor_file import read_tensors, save_tensors
from bert_large.optim.build import MOMENTS, get_moments, held_parameters, moment_names, set_moments
from bert_large.storage.atomic import (
    drop_from_page_cache,
    explain_write_errors,
    read_json,
    remove_tree,
    require_free_bytes,
    sync_folder,
    write_json,
)
from bert_large.storage.integrity import check_checksums, write_checksums
from bert_large.storage.output_folder import WEIGHTS_FILE
from bert_large.train.state import TrainingState, state_from

_PREFIX = "step-"
_STEP = re.compile(_PREFIX + r"\d{8,}")
_PARTIAL = ".partial-"
MOMENTS_FILE = "optimizer.safetensors"
STATE_FILE = "state.json"


def save_checkpoint(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: TrainingState,
    identity: Mapping[str, Any],
    shards: ParameterShards | None = None,
) -> Path:
    """Write `folder/step-…` and return its path.

    If the optimizer state is sharded over ranks, the main rank calls this while all others call `send_moments`.
    """
    moments = _all_moments(model, optimizer, shards)
    try:
        return write_checkpoint(folder, weights_of(model), moments, state, identity)
    finally:
        for _ in moments:  # after a failure too: the other ranks wait to send theirs
            pass


def send_moments(model: nn.Module, optimizer: torch.optim.Optimizer, shards: ParameterShards) -> None:
    """Send the moments that this rank holds to the main rank, which saves a checkpoint."""
    for _ in _all_moments(model, optimizer, shards):
        raise AssertionError("the main rank calls save_checkpoint")


def _all_moments(
    model: nn.Module, optimizer: torch.optim.Optimizer, shards: ParameterShards | None
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the moments of all parameters by name; sharded ones are sent to the main rank one at a time."""
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
    state: TrainingState,
    identity: Mapping[str, Any],
) -> Path:
    """Write `folder/step-…` from weights by name and moments with the names of `get_moments`; return its path."""
    target = folder / f"{_PREFIX}{state.step:08d}"
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
            write_json(partial / STATE_FILE, {**dataclasses.asdict(state), "identity": dict(identity)})
            write_checksums(partial)
            _read_back(partial)
        except (OSError, WriteError):
            remove_tree(partial, ignore_errors=True)  # frees space, so that the log can report the error
            raise
        if os.path.lexists(target):  # written again by a run that resumed from an earlier checkpoint elsewhere
            remove_checkpoint(target)
        partial.rename(target)
        sync_folder(folder)
    return target


def _read_back(folder: Path) -> None:
    """Verify a checkpoint as it is on the disk: its files are first dropped from the page cache, where possible."""
    for path in folder.iterdir():
        drop_from_page_cache(path)
    try:
        check_checksums(folder)
    except DamageError as error:
        raise WriteError(f"the disk returns other data than was written: {error}") from error


def bytes_to_save(weights: Mapping[str, torch.Tensor]) -> int:
    """Return the size of a checkpoint's tensors: the weights, and each of their moments."""
    return (1 + len(MOMENTS)) * sum(weight.nbytes for weight in weights.values())


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a run, oldest first; all were complete when written, see `check_intact`."""
    return sorted((path for path in folder.glob(f"{_PREFIX}*") if _STEP.fullmatch(path.name)), key=_step_of)


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix(_PREFIX))


def check_intact(checkpoint: Path) -> None:
    """Read all of a checkpoint; raise `DamageError` if anything in it differs from what was written."""
    if not checkpoint.is_dir():
        raise DamageError(f"{checkpoint} is not a checkpoint: it is not a folder")
    check_checksums(checkpoint, required=(WEIGHTS_FILE, MOMENTS_FILE, STATE_FILE))
    read_state(checkpoint)


def newest_intact(checkpoints: Sequence[Path]) -> tuple[Path | None, list[DamageError]]:
    """Return the newest intact one of `checkpoints` (oldest first), and the errors found in newer ones.

    Raises `InputError` if there are checkpoints but none is intact.
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
            f"{'; '.join(map(str, damages))}. Restore one from a copy, or start from scratch in an empty OUTPUT_DIR"
        )
    return None, []


def remove_old_checkpoints(folder: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints, and the remains of others.

    Call it only when the newest was just written, and is therefore known to be intact.
    """
    for path in list_checkpoints(folder)[:-keep]:
        remove_checkpoint(path)
    remove_partial_checkpoints(folder)


def remove_partial_checkpoints(folder: Path) -> None:
    """Delete checkpoints that a killed process was writing or deleting."""
    for path in folder.glob(f"{_PARTIAL}*"):
        remove_tree(path)


def later_checkpoints(folder: Path, step: int) -> list[Path]:
    """Return the checkpoints after `step`."""
    return [path for path in list_checkpoints(folder) if _step_of(path) > step]


def remove_checkpoint(checkpoint: Path) -> None:
    """Delete a checkpoint. It is renamed first, so that a half-deleted one is never taken for a damaged one."""
    doomed = checkpoint.with_name(f"{_PARTIAL}removed-{checkpoint.name}")
    remove_tree(doomed, ignore_errors=True)
    checkpoint.rename(doomed)
    remove_tree(doomed)


def read_state(checkpoint: Path) -> tuple[TrainingState, dict[str, Any]]:
    """Return the training state of a checkpoint, and the identity of its run."""
    path = checkpoint / STATE_FILE
    try:
        defaults = dataclasses.asdict(TrainingState())  # for values that older versions did not write
        newer = ("loss_scale", "masked_lm_accuracy", "skipped", "loss_trend", "seconds")
        values = {name: defaults[name] for name in newer} | read_json(path)
        identity = values.pop("identity", None)
        if not isinstance(identity, dict):
            raise ValueError(f"identity is {str(identity)[:60]}")
        return state_from(values), identity
    except FileNotFoundError:
        raise DamageError(f"{checkpoint} is not a checkpoint: it has no {STATE_FILE}") from None
    except DamageError as error:
        raise DamageError(f"{error}; delete that checkpoint") from None
    except ValueError as error:
        raise DamageError(f"{path} is damaged: {error}; delete that checkpoint") from None


def load_checkpoint(
    checkpoint: Path, model: nn.Module, optimizer: torch.optim.Optimizer, ranks: Ranks | None = None
) -> TrainingState:
    """Restore weights and moments, all of which must be finite, and return the training state.

    Only the main rank reads the files and broadcasts their content: other hosts need no access to the folder.
    """
    ranks = ranks or Ranks()
    state, moments = TrainingState(), {}
    moments_of = {name: moment_names(name) for name, _ in model.named_parameters()}
    with ranks.failing_together():
        if ranks.is_main:
            state, _ = read_state(checkpoint)
            load_weights(checkpoint / WEIGHTS_FILE, model)
            moments = read_tensors(checkpoint / MOMENTS_FILE, [name for names in moments_of.values() for name in names])
            require_finite(moments, checkpoint / MOMENTS_FILE)
    state = state_from(ranks.broadcast(dataclasses.asdict(state)))
    ranks.broadcast_tensors(list(weights_of(model).values()))
    held, held_moments = held_parameters(model, optimizer), {}
    for name, parameter in model.named_parameters():
        for moment in moments_of[name]:
            tensor = moments.pop(moment) if ranks.is_main else torch.empty_like(parameter.data)
            ranks.broadcast_tensors([tensor])
            if name in held:
                held_moments[moment] = tensor
    set_moments(model, optimizer, held_moments, state.updates)
    return state
