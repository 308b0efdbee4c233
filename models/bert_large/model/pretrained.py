"""Model folders: `config.json`, `model.safetensors` and a vocabulary, as `transformers` reads and writes them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from bert_large.config.model import ModelConfig
from bert_large.errors import DamageError, InputError
from bert_large.model.bert import BertForPreTraining
from bert_large.model.tensor_file import read_tensors, save_tensors
from bert_large.prepare.casing import TOKENIZER_CONFIG_FILE, resolve_casing
from bert_large.prepare.vocab import read_vocab, write_vocab
from bert_large.storage.atomic import explain_write_errors, remove_tree, sync_folder, write_atomically
from bert_large.storage.integrity import CHECKSUMS_FILE, check_checksums, write_checksums
from bert_large.storage.output_folder import CONFIG_FILE, WEIGHTS_FILE

VOCAB_FILE = "vocab.txt"
_PARTIAL = ".partial-"


def weights_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the model's weights by name (views, not copies)."""
    return {name: parameter.data for name, parameter in model.named_parameters()}


@torch.no_grad()
def load_weights(path: Path, model: nn.Module, weight_name: Callable[[str], str] = str) -> None:
    """Copy weights from a safetensors file into the model, checking every shape first.

    `weight_name` tells what the file calls a parameter: the same, unless told otherwise.
    """
    parameters = {weight_name(name): parameter for name, parameter in model.named_parameters()}
    tensors = read_tensors(path, list(parameters))
    for name, parameter in parameters.items():
        if tensors[name].shape != parameter.shape:
            raise InputError(
                f"{path}: {name} is {list(tensors[name].shape)}, the model configuration makes it "
                f"{list(parameter.shape)}; the checkpoint is of another shape"
            )
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
    """Write a Hugging Face folder and its checksums; each file replaces an older one whole.

    `do_lower_case` and `strip_accents` are what `transformers` does with text; None: as `resolve_casing` finds.
    """
    partial = folder / f"{_PARTIAL}model"
    with explain_write_errors(folder):
        remove_tree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            weights = {config.traits.weight_name(name): weight for name, weight in weights_of(model).items()}
            save_tensors(partial / WEIGHTS_FILE, {name: its.shape for name, its in weights.items()}, weights.items())
            with write_atomically(partial / CONFIG_FILE) as file:
                file.write((json.dumps(config.to_hugging_face(), indent=2) + "\n").encode())
            if vocab_file is not None:
                _save_vocabulary(partial, config, vocab_file, do_lower_case, strip_accents)
            write_checksums(partial)
            (folder / CHECKSUMS_FILE).unlink(missing_ok=True)  # of an older model: none are better than wrong ones
            for path in sorted(partial.iterdir(), key=lambda path: path.name == CHECKSUMS_FILE):
                path.replace(folder / path.name)
            sync_folder(folder)
        finally:
            remove_tree(partial, ignore_errors=True)


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
    with write_atomically(folder / TOKENIZER_CONFIG_FILE) as file:
        file.write(json.dumps(settings, indent=2).encode())


def check_model_folder(folder: Path) -> Path:
    """Return the weights file of a `model_save` folder, refusing what is none."""
    if not folder.is_dir():
        raise InputError(f"CHECKPOINT_DIR {folder} does not exist or is no folder; give a model_save folder")
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise InputError(f"CHECKPOINT_DIR {folder} has no {name}; give the model_save folder of a finished run")
    return folder / WEIGHTS_FILE


def load_model(folder: Path, model: BertForPreTraining) -> None:
    """Copy the weights of a `model_save` folder into the model; where the folder has checksums, they must be right."""
    load_weights(check_model_intact(folder), model, model.config.traits.weight_name)


def check_model_intact(folder: Path) -> Path:
    """Return the weights file of a `model_save` folder; where the folder has checksums, they must be right."""
    weights_file = check_model_folder(folder)
    if (folder / CHECKSUMS_FILE).exists():
        try:
            check_checksums(folder)
        except DamageError as error:
            raise DamageError(
                f"CHECKPOINT_DIR: {error}. Put the folder back from a copy, or remove its {CHECKSUMS_FILE} if it was "
                "changed on purpose"
            ) from None
    return weights_file
