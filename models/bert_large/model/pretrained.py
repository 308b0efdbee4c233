"""Model folders: `config.json`, `model.safetensors` and a vocabulary, in the format of `transformers`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import cast

import torch
from torch import nn

from bert_large.config.model import ModelConfig
from bert_large.errors import DamageError, InputError
from bert_large.log import LOGGER
from bert_large.model.bert import BertForPreTraining
from bert_large.model.growing import POSITIONS, WORDS, grow_positions, grow_words, new_pieces
from bert_large.model.tensor_file import save_tensors
from bert_large.model.weight_files import (
    CONFIG_FILES,
    NEXT_SENTENCE_HEAD,
    WEIGHTS_FILES,
    WeightFiles,
    as_float32,
    find_file,
    require_finite,
)
from bert_large.prepare.casing import resolve_casing
from bert_large.prepare.tokenizer_files import ADDED_TOKENS_FILE, TOKENIZER_CONFIG_FILE, VOCAB_FILE, find_vocab
from bert_large.prepare.vocab import read_vocab, write_vocab
from bert_large.storage.atomic import explain_write_errors, write_json
from bert_large.storage.integrity import CHECKSUMS_FILE, check_checksums, write_checksums
from bert_large.storage.output_folder import CONFIG_FILE, WEIGHTS_FILE, partial_folder, publish_model

Grow = Callable[[torch.Tensor, int], torch.Tensor]
"""Maps a tensor of a file to one with that many rows."""


def weights_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the model's weights by name (views, not copies)."""
    return {name: parameter.data for name, parameter in model.named_parameters()}


@torch.no_grad()
def load_weights(
    path: Path,
    model: nn.Module,
    weight_name: Callable[[str], str] = str,
    *,
    draw_heads: Callable[[], None] | None = None,
    grow: Mapping[str, Grow] | None = None,
) -> None:
    """Copy weights from a file, or from the shards of an index, into the model; every shape is checked first.

    `weight_name` returns what the file calls a parameter. `draw_heads` initializes the model when heads are missing;
    without it they are required. `grow` has functions that make parameters from tensors which may have fewer rows.
    Raises `InputError` for tensors that are missing, of another shape or unknown, `NonFiniteWeightsError` for tensors
    with NaN or infinity.
    """
    growing = {weight_name(name): function for name, function in (grow or {}).items()}
    file = WeightFiles(path)
    parameters = {weight_name(name): parameter for name, parameter in model.named_parameters()}
    shapes = {name: parameter.shape for name, parameter in parameters.items()}
    tensors = file.read(shapes, heads_may_lack=draw_heads is not None, may_be_shorter=growing)
    file.refuse_unknown(parameters, ignored=NEXT_SENTENCE_HEAD)
    file.refuse_own_decoder()
    for name, tensor in tensors.items():
        as_float32(path, name, tensor)  # all are checked before the first one is copied
    if draw_heads is not None and (drawn := sorted(parameters.keys() - tensors.keys())):
        LOGGER.info("%s lacks %s: drawn from the seed", path, ", ".join(drawn))
        draw_heads()
    for name in list(tensors):
        weight = as_float32(path, name, tensors.pop(name))
        parameters[name].copy_(growing[name](weight, len(parameters[name])) if name in growing else weight)


def save_model(
    folder: Path,
    model: nn.Module,
    config: ModelConfig,
    vocab_file: Path | None,
    do_lower_case: bool | None = None,
    strip_accents: bool | None = None,
) -> None:
    """Write a model folder with checksums. An older model there is replaced only once the new one is complete.

    `do_lower_case` and `strip_accents` go into the tokenizer's configuration; if None, as `resolve_casing` finds.
    Raises `NonFiniteWeightsError`, and writes nothing, if a weight is NaN or infinite.
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
    vocabulary = read_vocab(vocab_file)
    write_vocab(folder / VOCAB_FILE, vocabulary.tokens)  # without a byte order mark, uncompressed
    if vocabulary.added:
        write_json(folder / ADDED_TOKENS_FILE, vocabulary.added_ids)
    settings = {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": casing.do_lower_case,
        "strip_accents": casing.strip_accents,
        "model_max_length": config.max_position_embeddings,
        "model_input_names": config.traits.inputs,
    }
    write_json(folder / TOKENIZER_CONFIG_FILE, settings)


def check_model_folder(folder: Path) -> Path:
    """Return the weights file of a model folder, one of `weight_files.WEIGHTS_FILES`; refuse what is not a folder."""
    if not folder.is_dir():
        raise InputError(f"CHECKPOINT_DIR {folder} does not exist or is not a folder; give a model_save folder")
    found = {names[0]: find_file(folder, names) for names in (CONFIG_FILES, WEIGHTS_FILES)}
    for name, path in found.items():
        if path is None:
            raise InputError(f"CHECKPOINT_DIR {folder} has no {name}; give the model_save folder of a finished run")
    return cast(Path, found[WEIGHTS_FILE])


def find_config_file(folder: Path) -> Path:
    """Return the configuration of a model folder: `config.json`, or `bert_config.json` where that alone is there."""
    return find_file(folder, CONFIG_FILES) or folder / CONFIG_FILE


def load_model(folder: Path, model: BertForPreTraining) -> None:
    """Copy the weights of a model folder into the model; where the folder has checksums, they must match."""
    load_weights(check_model_intact(folder), model, model.config.traits.weight_name)


def load_to_train(folder: Path, model: BertForPreTraining, seed: int, vocab_file: Path | None = None) -> None:
    """Copy the weights of a model folder into a model that may have more heads, positions and words than the folder.

    Missing heads are drawn from `seed`. The tokens of `vocab_file` that follow those of the folder's vocabulary start
    from the pieces that they consist of (`model.growing`). The log names everything that the folder did not have.
    """
    before, own = ModelConfig.from_json(find_config_file(folder)), find_vocab(folder)
    new = new_pieces(read_vocab(own), read_vocab(vocab_file)) if own is not None and vocab_file is not None else {}
    grow: dict[str, Grow] = {}
    if model.config.max_position_embeddings > before.max_position_embeddings:
        sizes = before.max_position_embeddings, model.config.max_position_embeddings
        LOGGER.info("%s has %d positions: extended to %d by copying them", folder, *sizes)
        grow[POSITIONS] = grow_positions
    if new or model.config.vocab_size > before.vocab_size:
        sizes = before.vocab_size, model.config.vocab_size
        LOGGER.info(
            "%s has %d rows of words, now %d; %d new tokens start as the mean of their pieces", folder, *sizes, len(new)
        )
        grow |= dict.fromkeys(WORDS, partial(grow_words, pieces=new))
    load_weights(
        check_model_intact(folder), model, model.config.traits.weight_name,
        draw_heads=lambda: model.initialize(seed), grow=grow,
    )  # fmt: skip


def check_model_intact(folder: Path) -> Path:
    """Return the weights file of a model folder; where the folder has checksums, they must match."""
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
