"""The configuration and the vocabulary of the model that a run starts from, checked before any work starts."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from bert_large.config.differences import differences
from bert_large.config.hugging_face import ARCHITECTURES, BERT
from bert_large.config.model import ModelConfig
from bert_large.config.presets import CONFIGURATIONS, read_configuration
from bert_large.errors import InputError
from bert_large.model.pretrained import check_model_folder, find_config_file
from bert_large.model.weight_files import NEXT_SENTENCE, WeightFiles
from bert_large.prepare.tokenizer_files import VOCAB_FILE, find_vocab
from bert_large.prepare.vocab import read_vocab
from bert_large.storage.atomic import read_json

_INCOMPLETE = ("BertModel", "BertForNextSentencePrediction", "DistilBertModel")
"""Classes of models that lack a pretraining head."""


def resolve_model_config(
    config_file: str | None,
    checkpoint_dir: Path | None,
    activation: str | None,
    *,
    vocab_file: Path | None = None,
    masked_lm_only: bool = False,
    least_positions: int = 0,
    extend_vocab: int = 0,
) -> ModelConfig:
    """Return the configuration of the model, from a file, a preset's name or a checkpoint, which must agree.

    `config_file` is a path or one of `CONFIGURATIONS`. A preset takes its vocabulary size from the checkpoint, or else
    from `vocab_file`. The heads are those of the checkpoint, unless `masked_lm_only`. The vocabulary of a checkpoint
    grows with `vocab_file`, which must begin with it, or by `extend_vocab` tokens; its positions to `least_positions`.
    """
    if checkpoint_dir is not None:
        own = _read_checkpoint(checkpoint_dir, activation)
        config = _grow(own, checkpoint_dir, vocab_file, least_positions, extend_vocab)
        if config_file is not None:
            config = _require_agreement(config_file, activation, checkpoint_dir, own, config)
    elif extend_vocab:
        raise InputError("--extend-vocab is given without CHECKPOINT_DIR, whose vocabulary it extends; set it")
    elif config_file is None:
        raise InputError(
            "CONFIG_FILE (--config-file) is not set; expected a bert_config.json, or one of "
            f"{', '.join(CONFIGURATIONS)}"
        )
    else:
        words = None if vocab_file is None else len(read_vocab(vocab_file).tokens)
        config = read_configuration(config_file, activation, vocab_size=words)
    return dataclasses.replace(config, architecture=config.traits.masked_lm_only) if masked_lm_only else config


def _read_checkpoint(folder: Path, activation: str | None) -> ModelConfig:
    """Return the configuration of the model in a folder."""
    weights_file, config_file = check_model_folder(folder), find_config_file(folder)
    config = ModelConfig.from_json(config_file, activation)
    _require_pretraining_model(config_file)
    # Google's own models have both heads, and a config.json that names the masked language model alone.
    if config.architecture == "BertForMaskedLM" and NEXT_SENTENCE in WeightFiles(weights_file).names:
        config = dataclasses.replace(config, architecture=BERT)
    return config


def _require_agreement(
    config_file: str, activation: str | None, folder: Path, own: ModelConfig, grown: ModelConfig
) -> ModelConfig:
    """Return the configuration of a file, grown like the checkpoint's; raise `InputError` if the two do not agree."""
    config = read_configuration(config_file, activation, vocab_size=grown.vocab_size)
    if config.vocab_size == own.vocab_size:
        config = dataclasses.replace(config, vocab_size=grown.vocab_size)
    positions = max(grown.max_position_embeddings, config.max_position_embeddings)
    if config.max_position_embeddings >= own.max_position_embeddings:
        grown, config = (dataclasses.replace(each, max_position_embeddings=positions) for each in (grown, config))
    if config.traits.model_type == own.traits.model_type:
        config = dataclasses.replace(config, architecture=own.architecture)
    problems = [
        f"{name} is {theirs}, in {config_file} {ours}"
        for name, (theirs, ours) in differences(vars(grown), vars(config)).items()
        if not name.endswith("dropout_prob")
    ]
    if problems:
        raise InputError(f"CHECKPOINT_DIR {folder} holds a model of another configuration: {'; '.join(problems)}")
    return config


def _grow(
    config: ModelConfig, folder: Path, vocab_file: Path | None, least_positions: int, extend_vocab: int
) -> ModelConfig:
    """Return the configuration of a checkpoint with room for more positions and words."""
    words, own = config.vocab_size, find_vocab(folder)
    before = read_vocab(own) if own is not None and (vocab_file or extend_vocab) else None
    if extend_vocab:
        if before is None:
            raise InputError(f"--extend-vocab: CHECKPOINT_DIR {folder} has no {VOCAB_FILE} to extend; add it there")
        words = max(words, len(before.tokens) + extend_vocab)
    elif vocab_file and before is not None:
        given = read_vocab(vocab_file)
        if difference := given.difference(before):
            raise InputError(
                f"VOCAB_FILE {vocab_file} is not the vocabulary of CHECKPOINT_DIR {folder}, nor does it begin with it: "
                f"{difference}; leave it out, or extend the model's own (`bert-large vocab --extend-vocab`)"
            )
        words = max(words, len(given.tokens))
    positions = max(config.max_position_embeddings, least_positions)
    return dataclasses.replace(config, vocab_size=words, max_position_embeddings=positions)


def _require_pretraining_model(config_file: Path) -> None:
    """Raise `InputError` if a model folder names a class for another use, such as a fine-tuned model.

    Classes without heads or with one of them are accepted: pretraining draws the heads, evaluation finds them missing.
    """
    named = read_json(config_file).get("architectures")
    if isinstance(named, list) and named and named[0] not in (*ARCHITECTURES, *_INCOMPLETE):
        raise InputError(
            f"CHECKPOINT_DIR {config_file.parent} holds a {named[0]}, expected one of {', '.join(ARCHITECTURES)}; set "
            "it to a model_save of pretraining. Fine-tuned models can be used with `transformers` and `bert-large "
            "finetune`"
        )


def describe_origin(config_file: str | None, checkpoint_dir: Path | None, config: ModelConfig) -> str:
    """Return a description of where `resolve_model_config` takes the configuration from."""
    if config_file is None:
        return f"configuration of {checkpoint_dir}"
    named = CONFIGURATIONS.get(config_file)
    if named is None or named.vocab_size == config.vocab_size:
        return f"configuration {config_file}"
    return (
        f"configuration {config_file} with vocab_size {config.vocab_size} from the "
        f"{'checkpoint' if checkpoint_dir else 'vocabulary'} instead of {named.vocab_size}"
    )


def resolve_vocab(vocab_file: Path | None, checkpoint_dir: Path | None, config: ModelConfig) -> Path | None:
    """Return the vocabulary to store with the model: `vocab_file`, else the checkpoint's, or None if neither exists."""
    path = vocab_file
    if path is None and checkpoint_dir is not None:
        path = find_vocab(checkpoint_dir)
    if path is None:
        return None
    words = len(read_vocab(path).tokens)
    if words > config.vocab_size:
        raise InputError(
            f"VOCAB_FILE {path} has {words} tokens, the model configuration's vocab_size is {config.vocab_size}; "
            "use the vocabulary that the records were made with, and a configuration with at least its size"
        )
    return path
