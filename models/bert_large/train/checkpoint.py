"""Checkpoints: weights, optimizer moments and progress, written whole or not at all.

`checkpoints/step-00000100/` holds `model.safetensors` (weights), `optimizer.safetensors` (moments, named
`exp_avg.PARAMETER` and `exp_avg_sq.PARAMETER`) and `state.json` (progress and the run's identity). It is written under
another name, flushed to disk, and renamed.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from bert_large.config import ModelConfig
from bert_large.errors import InputError
from bert_large.files import default_file_mode, remove_tree, sync_folder, write_atomically
from bert_large.optim.build import MOMENTS, get_moments, set_moments
from bert_large.prepare.vocab import read_vocab
from bert_large.train.loss_scale import LossScale

_PREFIX = "step-"
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

    @property
    def updates(self) -> int:
        """Optimizer updates made: steps but for those that an overflow skipped."""
        return self.step - (self.loss_scale.skipped_steps if self.loss_scale else 0)

    def __post_init__(self) -> None:
        counts = {"step": self.step, **({} if self.samples is None else {"samples": self.samples})}
        for name, value in counts.items():
            if type(value) is not int or value < 0:  # they come from files, and become names of folders
                raise ValueError(f"{name} is {value!r}, expected a whole number from 0")


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
    folder.mkdir(parents=True, exist_ok=True)
    remove_tree(partial)
    partial.mkdir()
    save_tensors(partial / WEIGHTS_FILE, weights)
    save_tensors(partial / MOMENTS_FILE, moments)
    state = {**dataclasses.asdict(progress), "identity": dict(identity)}
    with write_atomically(partial / STATE_FILE) as file:
        file.write(json.dumps(state, indent=1).encode())
    remove_tree(target)  # from before a resume at an earlier step; the same run makes it the same again
    partial.rename(target)
    sync_folder(folder)
    return target


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the complete checkpoints of a run, oldest first."""
    return sorted(path for path in folder.glob(f"{_PREFIX}*") if (path / STATE_FILE).is_file())


def remove_old_checkpoints(folder: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints, and what a kill left half-written."""
    for path in [*list_checkpoints(folder)[:-keep], *folder.glob(f"{_PARTIAL}*")]:
        remove_tree(path)


def remove_later_checkpoints(folder: Path, step: int) -> None:
    """Delete checkpoints after `step`: a run that goes back must not be resumed from what lies ahead of its metrics."""
    for path in list_checkpoints(folder):
        if read_state(path)[0].step > step:
            remove_tree(path)


def read_state(checkpoint: Path) -> tuple[Progress, dict[str, Any]]:
    """Return progress and run identity of a checkpoint."""
    try:
        state = json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8"))
        scale = state.get("loss_scale")
        loss_scale = LossScale(**scale) if scale is not None else None
        return Progress(state["step"], state["samples"], state["evaluation_due"], loss_scale), state["identity"]
    except FileNotFoundError:
        raise InputError(f"{checkpoint} is no checkpoint to resume from: it has no {STATE_FILE}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{checkpoint / STATE_FILE} is damaged: {error}; remove that checkpoint") from None


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
    try:
        save_file(tensors, path, metadata={"format": "pt"})
    except SafetensorError as error:  # it wraps the system's errors, such as a full disk
        raise OSError(f"{path} could not be written: {error}") from error
    path.chmod(default_file_mode())  # the library makes files that only their owner can read
    with path.open("rb") as file:
        os.fsync(file.fileno())


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
    """Write a Hugging Face folder; each file replaces an older one whole."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{_PARTIAL}{WEIGHTS_FILE}"
    remove_tree(partial)
    save_tensors(partial, weights_of(model))
    partial.replace(folder / WEIGHTS_FILE)
    with write_atomically(folder / CONFIG_FILE) as file:
        file.write((json.dumps(config.to_hugging_face(), indent=2) + "\n").encode())
    if vocab_file is not None and vocab_file != folder / VOCAB_FILE:
        with write_atomically(folder / VOCAB_FILE) as file:
            file.write(vocab_file.read_bytes())
        with write_atomically(folder / "tokenizer_config.json") as file:
            lower = not any(
                token != token.lower() and not token.startswith("[") for token in read_vocab(vocab_file).tokens
            )
            file.write(json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": lower}, indent=2).encode())


def check_model_folder(folder: Path) -> Path:
    """Return the weights file of a `model_save` folder, refusing what is none."""
    if not folder.is_dir():
        raise InputError(f"CHECKPOINT_DIR {folder} does not exist or is no folder; give a model_save folder")
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise InputError(f"CHECKPOINT_DIR {folder} has no {name}; give the model_save folder of a finished run")
    return folder / WEIGHTS_FILE
