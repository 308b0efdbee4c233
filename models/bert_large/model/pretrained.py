"""Model folders: `config.json`, `model.safetensors` and a vocabulary, in the format of `transformers`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import nn

from bert_large.config.model import ModelConfig
from bert_large.errors import DamageError, InputError
from bert_large.model.bert import BertForPreTraining
from bert_large.model.tensor_file import read_tensors, save_tensors
from bert_large.prepare.casing import TOKENIZER_CONFIG_FILE, resolve_casing
from bert_large.prepare.vocab import read_vocab, write_vocab
from bert_large.storage.atomic import explain_write_errors, write_json
from bert_large.storage.integrity import CHECKSUMS_FILE, check_checksums, write_checksums
from bert_large.storage.output_folder import CONFIG_FILE, WEIGHTS_FILE, partial_folder, publish_model

VOCAB_FILE = "vocab.txt"


class NonFiniteWeightsError(InputError):
    """A model's weights contain NaN or infinity."""


def weights_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the model's weights by name (views, not copies)."""
    return {name: parameter.data for name, parameter in model.named_parameters()}


def require_finite(tensors: Mapping[str, torch.Tensor], where: Path | str) -> None:
    """Raise `NonFiniteWeightsError` if any of the tensors, which `where` contains, holds NaN or infinity."""
    damaged = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if damaged:
        raise NonFiniteWeightsError(
            f"{where}: {len(damaged)} of {len(tensors)} tensors contain NaN or infinity, {damaged[0]} among them; "
            "training diverged before they were saved. Use the weights of an earlier checkpoint"
        )


@torch.no_grad()
def load_weights(path: Path, model: nn.Module, weight_name: Callable[[str], str] = str) -> None:
    """Copy weights from a safetensors file into the model, after checking that all have its shapes and are finite.

    `weight_name` maps a parameter's name to its name in the file.
    """
    parameters = {weight_name(name): parameter for name, parameter in model.named_parameters()}
    tensors = read_tensors(path, list(parameters))
    for name, parameter in parameters.items():
        if tensors[name].shape != parameter.shape:
            raise InputError(
                f"{path}: {name} has shape {list(tensors[name].shape)}, expected {list(parameter.shape)} from the "
                "model configuration; use the configuration that the model was trained with"
            )
    require_finite(tensors, path)
    for name, parameter in parameters.items():
        parameter.copy_(tensors.pop(name))


def save_model(
    folder: Path,
    model: nn.Module,
    config: ModelConfig,
    vocab_file: Path | None,
    do_lower_case: bool | None = None,
    strip_accents: bool | None = None,
) -> None:
    """Write a model folder with checksums. An older model there is replaced only once the new one is complete.

    `do_lower_case` and `strip_accents` go into the tokenizer's configuration; None: as `resolve_casing` finds. Raises
    `NonFiniteWeightsError`, and writes nothing, if a weight is NaN or infinite.
    """
    weights = {config.traits.weight_name(name): weight for name, weight in weights_of(model).items()}
    require_finite(weights, f"the model for {folder}")
    with explain_write_errors(folder), partial_folder(folder) as partial:
        save_tensors(partial / WEIGHTS_FILE, {name: tensor.shape for name, tensor in weights.items()}, weights.items())
        write_json(partial / CONFIG_FILE, config.to_hugging_face())
        if vocab_file is not None:
            _save_vocabulary(partial, config, vocab_file, do_lower_case, strip_accents)
        write_checksums(partial)
        publish_model(partial, folder)


def _save_vocabulary(
    folder: Path, config: ModelConfig, vocab_file: Path, do_lower_case: bool | None, strip_accents: bool | None
) -> None:
    casing = resolve_casing(vocab_file, do_lower_case, strip_accents)
    write_vocab(folder / VOCAB_FILE, read_vocab(vocab_file).tokens)  # without a byte order mark, uncompressed
    settings = {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": casing.do_lower_case,
        "strip_accents": casing.strip_accents,
        "model_max_length": config.max_position_embeddings,
        "model_input_names": config.traits.inputs,
    }
    write_json(folder / TOKENIZER_CONFIG_FILE, settings)


def check_model_folder(folder: Path) -> Path:
    """Return the weights file of a model folder; raise `InputError` if the folder lacks weights or configuration."""
    if not folder.is_dir():
        raise InputError(f"CHECKPOINT_DIR {folder} does not exist or is not a folder; give a model_save folder")
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise InputError(f"CHECKPOINT_DIR {folder} has no {name}; give the model_save folder of a finished run")
    return folder / WEIGHTS_FILE


def load_model(folder: Path, model: BertForPreTraining) -> None:
    """Copy the weights of a model folder into the model, after checking them and any checksums in the folder."""
    load_weights(check_model_intact(folder), model, model.config.traits.weight_name)


def check_model_intact(folder: Path) -> Path:
    """Return the weights file of a model folder, after comparing its files with the folder's checksums, if any."""
    weights_file = check_model_folder(folder)
    if (folder / CHECKSUMS_FILE).exists():
        try:
            check_checksums(folder)
        except DamageError as error:
            raise DamageError(
                f"CHECKPOINT_DIR: {error}. Restore the folder from a copy, or delete its {CHECKSUMS_FILE} if it was "
                "changed on purpose"
            ) from None
    return weights_file
