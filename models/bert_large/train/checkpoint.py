"""Checkpoints: weights, optimizer moments and progress, written whole or not at all, and known to be intact.

`checkpoints/step-00000100/` holds `model.safetensors` (weights), `optimizer.safetensors` (moments, named
`exp_avg.PARAMETER` and `exp_avg_sq.PARAMETER`), `state.json` (progress and the run's identity) and `checksums.json` of
these. It is written under another name, flushed to disk, read back from there, and renamed; older ones are deleted
after that only.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from bert_large.checksums import CHECKSUMS_FILE, check_checksums, write_checksums
from bert_large.config import ModelConfig
from bert_large.errors import DamageError, InputError, WriteError
from bert_large.files import (
    default_file_mode,
    drop_from_page_cache,
    explain_write_errors,
    require_free_bytes,
    sync_file,
    sync_folder,
    write_atomically,
)
from bert_large.optim.build import MOMENTS, get_moments, set_moments
from bert_large.prepare.vocab import read_vocab
from bert_large.train.loss_scale import LossScale

_PREFIX = "step-"
_STEP = re.compile(_PREFIX + r"\d{8,}")
_PARTIAL = ".partial-"
WEIGHTS_FILE = "model.safetensors"
MOMENTS_FILE = "optimizer.safetensors"
STATE_FILE = "state.json"
CONFIG_FILE = "config.json"
VOCAB_FILE = "vocab.txt"


@dataclass(frozen=True)
class Progress:
    """How far a run is; its data cursor is `samples`, as sample order is a pure function."""

    step: int = 0
    samples: int | None = 0
    """None: not known, as the checkpoint was imported; a run counts step times its global batch."""
    evaluation_due: bool = False
    """An evaluation belongs after this step, and was left undone because the run was interrupted."""
    loss_scale: LossScale | None = None
    """None: the run's precision needs none."""
    masked_lm_accuracy: float | None = None
    """Of the evaluation after this step; None: there was none. The target may have been reached here."""

    @property
    def updates(self) -> int:
        """Optimizer updates made: steps but for those that an overflow skipped."""
        return self.step - (self.loss_scale.skipped_steps if self.loss_scale else 0)


def save_checkpoint(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress, identity: Mapping[str, Any]
) -> Path:
    """Write `folder/step-…` and return it."""
    return write_checkpoint(folder, weights_of(model), get_moments(model, optimizer), progress, identity)


def write_checkpoint(
    folder: Path,
    weights: dict[str, torch.Tensor],
    moments: dict[str, torch.Tensor],
    progress: Progress,
    identity: Mapping[str, Any],
) -> Path:
    """Write `folder/step-…` from weights by name and moments named as `get_moments` does, and return it."""
    target = folder / f"{_PREFIX}{progress.step:08d}"
    partial = folder / f"{_PARTIAL}{target.name}"
    needed_bytes = _bytes_of(weights) + _bytes_of(moments)
    with explain_write_errors(target, needed_bytes):
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        require_free_bytes(target, needed_bytes)
        try:
            partial.mkdir()
            save_tensors(partial / WEIGHTS_FILE, weights)
            save_tensors(partial / MOMENTS_FILE, moments)
            state = {**dataclasses.asdict(progress), "identity": dict(identity)}
            with write_atomically(partial / STATE_FILE) as file:
                file.write(json.dumps(state, indent=1).encode())
            write_checksums(partial)
            _read_back(partial)
        except (OSError, WriteError):
            shutil.rmtree(partial, ignore_errors=True)  # room for the log to say so
            raise
        if target.exists():  # written again, as when a run goes back to a checkpoint elsewhere
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


def bytes_to_save(model: nn.Module) -> int:
    """Return the size of a checkpoint's tensors: the weights and as many of each moment."""
    return (1 + len(MOMENTS)) * _bytes_of(weights_of(model))


def _bytes_of(tensors: Mapping[str, torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a run, oldest first. They were whole once: `check_intact` tells if they still are."""
    return sorted((path for path in folder.glob(f"{_PREFIX}*") if _STEP.fullmatch(path.name)), key=_step_of)


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix(_PREFIX))


def check_intact(checkpoint: Path) -> None:
    """Read a whole checkpoint; raise `DamageError` if anything in it is not as it was written."""
    if not checkpoint.is_dir():
        raise InputError(f"{checkpoint} is no checkpoint to resume from: it is no folder")
    check_checksums(checkpoint)
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
        shutil.rmtree(path)


def remove_later_checkpoints(folder: Path, step: int) -> None:
    """Delete checkpoints after `step`: a run that goes back must not be resumed from what lies ahead of its metrics."""
    for path in list_checkpoints(folder):
        if _step_of(path) > step:
            _remove(path)


def _remove(checkpoint: Path) -> None:
    """Delete a checkpoint, which loses its name first: one that is half-deleted must not be taken for a damaged one."""
    doomed = checkpoint.with_name(f"{_PARTIAL}removed-{checkpoint.name}")
    shutil.rmtree(doomed, ignore_errors=True)
    checkpoint.rename(doomed)
    shutil.rmtree(doomed)


def read_state(checkpoint: Path) -> tuple[Progress, dict[str, Any]]:
    """Return progress and run identity of a checkpoint."""
    try:
        state = json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8"))
        scale = state.get("loss_scale")
        loss_scale = LossScale(**scale) if scale is not None else None
        accuracy = state.get("masked_lm_accuracy")
        progress = Progress(state["step"], state["samples"], state["evaluation_due"], loss_scale, accuracy)
        return progress, state["identity"]
    except FileNotFoundError:
        raise DamageError(f"{checkpoint} is no checkpoint to resume from: it has no {STATE_FILE}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise DamageError(f"{checkpoint / STATE_FILE} is damaged: {error}; remove that checkpoint") from None


def load_checkpoint(checkpoint: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> Progress:
    """Restore weights and moments, and return the progress."""
    progress, _ = read_state(checkpoint)
    load_weights(checkpoint / WEIGHTS_FILE, model)
    names = [f"{moment}.{name}" for name, _ in model.named_parameters() for moment in MOMENTS]
    set_moments(model, optimizer, read_tensors(checkpoint / MOMENTS_FILE, names), progress.updates)
    return progress


def weights_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the model's weights by name (views, not copies)."""
    return {name: parameter.data for name, parameter in model.named_parameters()}


def save_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Write a safetensors file and flush it to disk."""
    with explain_write_errors(path, _bytes_of(tensors)):
        try:
            save_file(tensors, path, metadata={"format": "pt"})
        except SafetensorError as error:  # it wraps the system's errors, such as a full disk, in text
            number = re.search(r"os error (\d+)", str(error))
            code = int(number[1]) if number else errno.EIO
            raise OSError(code, os.strerror(code) if number else str(error)) from error
        path.chmod(default_file_mode())  # the library makes files that only their owner can read
        sync_file(path)


def read_tensors(path: Path, names: list[str]) -> dict[str, torch.Tensor]:
    """Read the tensors of these names from a safetensors file."""
    try:
        with safe_open(path, framework="pt") as file:
            missing = sorted(set(names) - set(file.keys()))
            if missing:
                raise InputError(
                    f"{path} lacks {len(missing)} tensors, {missing[0]} among them; it is of another model"
                )
            return {name: file.get_tensor(name) for name in names}
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; expected a checkpoint's {path.name} there") from None
    except SafetensorError as error:
        raise InputError(f"{path} is damaged or no safetensors file: {error}") from None


@torch.no_grad()
def load_weights(path: Path, model: nn.Module) -> None:
    """Copy weights from a safetensors file into the model, checking every shape first."""
    parameters = dict(model.named_parameters())
    tensors = read_tensors(path, list(parameters))
    for name, parameter in parameters.items():
        if tensors[name].shape != parameter.shape:
            raise InputError(
                f"{path}: {name} is {list(tensors[name].shape)}, the model configuration makes it "
                f"{list(parameter.shape)}; the checkpoint is of another shape"
            )
    for name, parameter in parameters.items():
        parameter.copy_(tensors.pop(name))


def save_model(folder: Path, model: nn.Module, config: ModelConfig, vocab_file: Path | None) -> None:
    """Write a Hugging Face folder and its checksums; each file replaces an older one whole."""
    partial = folder / f"{_PARTIAL}model"
    with explain_write_errors(folder):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            save_tensors(partial / WEIGHTS_FILE, weights_of(model))
            with write_atomically(partial / CONFIG_FILE) as file:
                file.write((json.dumps(config.to_hugging_face(), indent=2) + "\n").encode())
            if vocab_file is not None:
                _save_vocabulary(partial, vocab_file)
            write_checksums(partial)
            (folder / CHECKSUMS_FILE).unlink(missing_ok=True)  # of an older model: none are better than wrong ones
            for path in sorted(partial.iterdir(), key=lambda path: path.name == CHECKSUMS_FILE):
                path.replace(folder / path.name)
            sync_folder(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _save_vocabulary(folder: Path, vocab_file: Path) -> None:
    with write_atomically(folder / VOCAB_FILE) as file:
        file.write(vocab_file.read_bytes())
    lower = not any(token != token.lower() and not token.startswith("[") for token in read_vocab(vocab_file).tokens)
    with write_atomically(folder / "tokenizer_config.json") as file:
        file.write(json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": lower}, indent=2).encode())


def check_model_folder(folder: Path) -> Path:
    """Return the weights file of a `model_save` folder, refusing what is none."""
    if not folder.is_dir():
        raise InputError(f"CHECKPOINT_DIR {folder} does not exist or is no folder; give a model_save folder")
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise InputError(f"CHECKPOINT_DIR {folder} has no {name}; give the model_save folder of a finished run")
    return folder / WEIGHTS_FILE


def load_model(folder: Path, model: nn.Module) -> None:
    """Copy the weights of a `model_save` folder into the model; where the folder has checksums, they must be right."""
    weights_file = check_model_folder(folder)
    if (folder / CHECKSUMS_FILE).exists():
        try:
            check_checksums(folder)
        except DamageError as error:
            raise DamageError(
                f"CHECKPOINT_DIR: {error}. Put the folder back from a copy, or remove its {CHECKSUMS_FILE} if it was "
                "changed on purpose"
            ) from None
    load_weights(weights_file, model)
