"""The model's configuration: sizes and parts, read from and written to `config.json`."""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bert_large.config.hugging_face import ARCHITECTURES, BERT, Architecture
from bert_large.config.options import SMALLEST_FLOAT, find_problems, setting
from bert_large.errors import InputError

ACTIVATIONS = {"tanh": "gelu_pytorch_tanh", "erf": "gelu"}
"""The two forms of GELU, with their names in Hugging Face's `hidden_act`."""


_SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
"""Fields of `ModelConfig` that every file must have."""
_NEUTRAL_VALUES: dict[str, Any] = {
    "add_cross_attention": False,
    "chunk_size_feed_forward": 0,
    "directionality": "bidi",
    "is_decoder": False,
    "is_encoder_decoder": False,
    "position_embedding_type": "absolute",
    "pruned_heads": {},
    "quantization_config": None,
    "tie_weights_": True,
    "tie_word_embeddings": True,
}
"""Keys of `config.json` that would make another model, with the value that describes the models of this package."""


def _field(default: Any, text: str, **details: Any) -> Any:
    return setting(default, text, option="", variable="", **details)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A model's size and parts; the field names are those of `bert_config.json`. Defaults are BERT-large's."""

    vocab_size: int = _field(30522, "tokens of the vocabulary", within="[1, 100000000]")
    hidden_size: int = _field(1024, "width of the encoder", within="[1, 1000000]")
    num_hidden_layers: int = _field(24, "encoder layers", within="[1, 10000]")
    num_attention_heads: int = _field(16, "attention heads; must divide hidden_size", within="[1, 10000]")
    intermediate_size: int = _field(4096, "width of the feed-forward network", within="[1, 1000000]")
    hidden_act: str = _field(ACTIVATIONS["tanh"], "form of GELU", choices=tuple(sorted(ACTIVATIONS.values())))
    hidden_dropout_prob: float = _field(0.1, "dropout after embeddings and sublayers", within="[0, 1)")
    attention_probs_dropout_prob: float = _field(0.1, "dropout of attention probabilities", within="[0, 1)")
    max_position_embeddings: int = _field(512, "longest sequence, in tokens", within="[1, 1000000]")
    type_vocab_size: int = _field(2, "kinds of segments; 0 for a model without segment embeddings", within="[0, 2]")
    initializer_range: float = _field(0.02, "standard deviation of new weights", within=f"[{SMALLEST_FLOAT}, 100]")
    layer_norm_eps: float = _field(1e-12, "added to the variance in LayerNorm", within="[0, 1]")
    architecture: str = _field(BERT, "class of transformers", choices=tuple(ARCHITECTURES))

    def __post_init__(self) -> None:
        problems = find_problems(type(self), vars(self))
        if not problems:
            problems = [
                f"{name} is {getattr(self, name)!r}, expected {expected} for {self.architecture}"
                for name, expected in self.traits.fixed_fields.items()
                if getattr(self, name) != expected
            ]
            heads = self.num_attention_heads
            if self.hidden_size % heads:
                problems.append(
                    f"hidden_size is {self.hidden_size}, expected a multiple of num_attention_heads, which is {heads}"
                )
        if problems:
            raise InputError(f"model configuration: {'; '.join(problems)}")

    @property
    def traits(self) -> Architecture:
        """The architecture's parts and its names for them."""
        return ARCHITECTURES[self.architecture]

    @classmethod
    def from_json(cls, path: Path, activation: str | None = None) -> ModelConfig:
        """Read Google's `bert_config.json` or a Hugging Face `config.json`; the architecture is the one that it names.

        Raises `InputError` that names the file, the key and its value for what has the wrong type or range, and for
        keys that are misspelled, repeated or describe a model this package does not have. Others are ignored.

        In Google's format, `gelu` means the tanh approximation (MLCommons' reference computes that); in Hugging
        Face's, which names a `model_type`, it means the erf form. `activation` ("tanh" or "erf") overrides both.
        """
        values = _read_object(path)
        architecture = _find_architecture(path, values)
        traits = ARCHITECTURES[architecture]
        keys = {field.name: traits.config_keys.get(field.name, field.name) for field in dataclasses.fields(cls)}
        missing = {keys[name] for name in _SIZES} - set(values)
        if missing:
            raise InputError(
                f"model configuration {path} lacks {', '.join(sorted(missing))}; is it a BERT configuration?"
            )
        chosen = {**traits.fixed_fields, **{name: values[key] for name, key in keys.items() if key in values},
                  "architecture": architecture}  # fmt: skip
        if activation is not None:
            chosen["hidden_act"] = ACTIVATIONS[activation]
        elif chosen.get("hidden_act") == ("gelu_new" if "model_type" in values else "gelu"):  # older names of tanh
            chosen["hidden_act"] = ACTIVATIONS["tanh"]
        problems = [problem.replace(name, keys[name], 1) for name in keys for problem in
                    find_problems(cls, {name: chosen[name]} if name in chosen else {})]  # fmt: skip
        unused = set(keys.values()) - values.keys() - {"architecture"}
        problems += [
            f"{key} is not a key of this configuration; did you mean {near[0]}?"
            for key in values.keys() - keys.values() - _NEUTRAL_VALUES.keys()
            if (near := difflib.get_close_matches(key, unused, 1, cutoff=0.85))
        ]
        if values.get("embedding_size", chosen["hidden_size"]) != chosen["hidden_size"]:
            problems.append(f"embedding_size is {values['embedding_size']}, expected hidden_size, which is "
                            f"{chosen['hidden_size']}: this package has no such model")  # fmt: skip
        problems += [
            f"{key} is {json.dumps(values[key])}, expected {json.dumps(neutral)}: this package has no such model"
            for key, neutral in _NEUTRAL_VALUES.items()
            if values.get(key) is not None and values[key] != neutral
        ]
        if problems:
            raise InputError(f"model configuration {path}: {'; '.join(problems)}")
        try:
            return cls(**chosen)
        except InputError as error:
            raise InputError(str(error).replace("model configuration", f"model configuration {path}", 1)) from None

    def to_hugging_face(self) -> dict[str, Any]:
        """Return the contents of a `config.json` that `transformers` loads."""
        sizes = {name: value for name, value in dataclasses.asdict(self).items()
                 if name != "architecture" and name not in self.traits.fixed_fields}  # fmt: skip
        return {"architectures": [self.architecture], "model_type": self.traits.model_type,
                **{self.traits.config_keys.get(name, name): value for name, value in sizes.items()},
                **self.traits.config_constants}  # fmt: skip


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object; raise `ValueError` for a key that is given twice, of which Python takes the last."""
    values = dict(pairs)
    if len(values) < len(pairs):
        repeated = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"{repeated} is given twice")
    return values


def _read_object(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")  # some editors write a byte order mark
        values = json.loads(text, object_pairs_hook=_once)
    except FileNotFoundError:
        raise InputError(f"model configuration {path} does not exist") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"model configuration {path} is not readable JSON: {error}") from None
    if not isinstance(values, dict):
        raise InputError(f"model configuration {path} holds a {type(values).__name__}, expected an object")
    return values


def _find_architecture(path: Path, values: dict[str, Any]) -> str:
    """Return the architecture that a `config.json` names, or the usual one of its `model_type`."""
    model_type = values.get("model_type", "bert")
    candidates = [name for name, traits in ARCHITECTURES.items() if traits.model_type == model_type]
    if not candidates:
        known = " or ".join(dict.fromkeys(repr(traits.model_type) for traits in ARCHITECTURES.values()))
        raise InputError(f"model configuration {path} is of model_type {model_type!r}, expected {known}")
    named = values.get("architectures")
    return named[0] if isinstance(named, list) and named[:1] and named[0] in candidates else candidates[0]
