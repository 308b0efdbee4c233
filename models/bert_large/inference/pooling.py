"""From hidden states to one vector per text, and how the folder of a sentence-transformers model asks for it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from bert_large.errors import InputError

_FROM_FOLDERS = ("mean", "cls")
"""Poolings that a folder can ask for."""
_JSON_NAMES = {dict: "an object", list: "an array", str: "a string", int: "an integer"}
_LEGACY = "pooling_mode_"
_LEGACY_NAMES = {"mean_tokens": "mean", "cls_token": "cls"}
"""Keys of older configurations behind `pooling_mode_`, one of which is true."""


@dataclass(frozen=True, kw_only=True)
class Pooling:
    """How a text becomes a vector.

    mean: the mean of its tokens' hidden states, special tokens included; cls: the hidden state of its first token;
    pooler: the output of the model's pooler, a layer on top of the first token.
    """

    mode: str = "mean"
    normalize: bool = False
    """Scale vectors to an L2 norm of 1."""
    max_length: int | None = None
    """Tokens after which texts are truncated; None: as many as the model has positions."""
    prompt: str = ""
    """Text in front of every text."""
    transformer: str = ""
    """The encoder's folder, relative to the model's."""

    def __call__(self, outputs: Any, mask: torch.Tensor) -> torch.Tensor:
        """Return float32 vectors [B, H] of a model's outputs for a padded batch with the attention `mask` [B, S]."""
        if self.mode == "pooler":
            vectors = outputs.pooler_output.float()
        elif self.mode == "cls":
            vectors = outputs.last_hidden_state[:, 0].float()
        else:
            weights = mask.unsqueeze(-1).float()
            vectors = (outputs.last_hidden_state.float() * weights).sum(1) / weights.sum(1)
        return functional.normalize(vectors, dim=-1) if self.normalize else vectors


def read_pooling(folder: Path, mode: str | None = None, normalize: bool | None = None) -> Pooling:
    """Return the pooling of a model folder: that of sentence-transformers' `modules.json`, or else the mean.

    `mode` and `normalize` replace what the folder asks for. Raises `InputError` if the folder asks for anything else
    than mean or cls pooling, unless `mode` replaces it, and for damaged configuration files.
    """
    found = Pooling()
    path = folder / "modules.json"
    if path.is_file():
        modules = _read(path, list)
        if not all(isinstance(module, dict) for module in modules):
            raise InputError(f"{path} is not a list of modules; expected a folder of sentence-transformers")
        for module in modules:
            found = _add_module(found, folder, module, ignore_others=mode is not None)
        settings = folder / "config_sentence_transformers.json"
        described = _read(settings, dict) if settings.is_file() else {}
        prompts = _entry(settings, described, "prompts", dict) or {}
        name = _entry(settings, described, "default_prompt_name", str)
        prompt = _entry(settings, prompts, name, str) if name is not None else None
        found = replace(found, prompt=prompt or "")
    return replace(found, mode=mode or found.mode, normalize=found.normalize if normalize is None else normalize)


def _add_module(pooling: Pooling, folder: Path, module: dict[str, Any], *, ignore_others: bool) -> Pooling:
    """Return the pooling with what one module of `modules.json` adds."""
    kind, place = str(module.get("type")).rpartition(".")[2], str(module.get("path", ""))
    if kind == "Transformer":
        path = folder / place / "sentence_bert_config.json"
        length = _entry(path, _read(path, dict), "max_seq_length", int) if path.is_file() else None
        return replace(pooling, transformer=place, max_length=length)
    if kind == "Normalize":
        return replace(pooling, normalize=True)
    if kind == "Dropout" or ignore_others:  # inference has no dropout
        return pooling
    found = kind
    if kind == "Pooling":
        path = folder / place / "config.json"
        config = _read(path, dict)
        mode = _pooling_mode(path, config)
        if config.get("include_prompt") is False:
            found = "pooling with include_prompt false"
        elif mode in _FROM_FOLDERS:
            return replace(pooling, mode=mode)
        else:
            found = f"the pooling {mode!r}"
    raise InputError(
        f"{folder / 'modules.json'} asks for {found}, expected mean or cls pooling and an optional Normalize; compute "
        "embeddings without it with --pooling mean, or use sentence-transformers"
    )


def _pooling_mode(path: Path, config: dict[str, Any]) -> str:
    mode = _entry(path, config, "pooling_mode", str, list)
    if mode is not None:
        return mode if isinstance(mode, str) else "+".join(map(str, mode))
    chosen = [key.removeprefix(_LEGACY) for key, value in config.items() if key.startswith(_LEGACY) and value is True]
    return "+".join(_LEGACY_NAMES.get(name, name) for name in chosen) or "mean"


def _read(path: Path, kind: type) -> Any:
    """Return the content of a JSON file; raise `InputError` if it is not of this kind."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read: {error}; expected a folder of sentence-transformers") from None
    if not isinstance(content, kind):
        raise InputError(f"{path}: found {str(content)[:60]!r}, expected {_JSON_NAMES[kind]} of sentence-transformers")
    return content


def _entry(path: Path, content: Mapping[str, Any], name: str, *kinds: type) -> Any:
    """Return an entry of a JSON object of `path`, None if it has none; raise `InputError` if it is of no such kind."""
    value = content.get(name)
    if value is not None and not isinstance(value, kinds):
        expected = " or ".join(_JSON_NAMES[kind] for kind in kinds)
        raise InputError(f"{path}: {name} is {str(value)[:60]!r}, expected {expected}")
    return value
