"""The model's configuration: sizes and parts, read from and written to `config.json`."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bert_large.config.hugging_face import ARCHITECTURES, BERT, Architecture
from bert_large.errors import InputError

ACTIVATIONS = {"tanh": "gelu_pytorch_tanh", "erf": "gelu"}
"""The two forms of GELU, by the names Hugging Face gives them in `hidden_act`."""


def require(problems: list[str], condition: bool, message: str) -> None:
    if not condition:
        problems.append(message)


def raise_all(problems: list[str], what: str) -> None:
    if problems:
        raise InputError(f"{what}: " + "; ".join(problems))


_SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
"""Fields of `ModelConfig` that every file must tell."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A model's size and parts; the field names are those of `bert_config.json`. Defaults are BERT-large's."""

    vocab_size: int = 30522
    hidden_size: int = 1024
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    intermediate_size: int = 4096
    hidden_act: str = ACTIVATIONS["tanh"]
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    """Segments told apart; 0: none are."""
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    architecture: str = BERT
    """Of `architectures.ARCHITECTURES`."""

    def __post_init__(self) -> None:
        problems: list[str] = []
        require(problems, self.architecture in ARCHITECTURES,
                 f"architecture is {self.architecture!r}, expected one of {', '.join(ARCHITECTURES)}")  # fmt: skip
        fixed_fields = {} if problems else self.traits.fixed_fields
        for name, expected in fixed_fields.items():
            value = getattr(self, name)
            require(problems, value == expected, f"{name} is {value!r}, expected {expected} of {self.architecture}")
        for name in (*_SIZES, "max_position_embeddings"):
            value = getattr(self, name)
            require(problems, isinstance(value, int) and value > 0, f"{name} is {value!r}, expected an integer > 0")
        require(problems, self.hidden_act in ACTIVATIONS.values(),
                 f"hidden_act is {self.hidden_act!r}, expected one of {sorted(ACTIVATIONS.values())}")  # fmt: skip
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
            value = getattr(self, name)
            require(
                problems,
                isinstance(value, int | float) and 0 <= value < 1,
                f"{name} is {value!r}, expected 0 to below 1",
            )
        if not problems:
            heads = self.num_attention_heads
            require(problems, self.hidden_size % heads == 0,
                     f"hidden_size {self.hidden_size} is no multiple of num_attention_heads {heads}")  # fmt: skip
        raise_all(problems, "model configuration")

    @property
    def traits(self) -> Architecture:
        """What the architecture has of BERT's parts, and its names."""
        return ARCHITECTURES[self.architecture]

    @classmethod
    def from_json(cls, path: Path, activation: str | None = None) -> ModelConfig:
        """Read Google's `bert_config.json` or a Hugging Face `config.json`, of the architecture that it names.

        In Google's format `gelu` means the tanh approximation (MLCommons' reference computes that); in Hugging
        Face's, which names a `model_type`, it means the erf form. `activation` ("tanh" or "erf") overrides both.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise InputError(f"model configuration {path} does not exist") from None
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(f"model configuration {path} is not readable JSON: {error}") from None
        if not isinstance(values, dict):
            raise InputError(f"model configuration {path} holds a {type(values).__name__}, expected an object")
        model_type = values.get("model_type", "bert")
        of_type = [name for name, its in ARCHITECTURES.items() if its.model_type == model_type]
        if not of_type:
            known = " or ".join(dict.fromkeys(repr(its.model_type) for its in ARCHITECTURES.values()))
            raise InputError(f"model configuration {path} is of model_type {model_type!r}, expected {known}")
        named = values.get("architectures")
        architecture = named[0] if isinstance(named, list) and named[:1] and named[0] in of_type else of_type[0]
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
        elif chosen.get("hidden_act") == ("gelu_new" if "model_type" in values else "gelu"):  # an older name of tanh
            chosen["hidden_act"] = ACTIVATIONS["tanh"]
        return cls(**chosen)

    def to_hugging_face(self) -> dict[str, Any]:
        """Return the contents of a `config.json` that `transformers` loads."""
        told = {name: value for name, value in dataclasses.asdict(self).items()
                if name != "architecture" and name not in self.traits.fixed_fields}  # fmt: skip
        return {"architectures": [self.architecture], "model_type": self.traits.model_type,
                **{self.traits.config_keys.get(name, name): value for name, value in told.items()},
                **self.traits.config_constants}  # fmt: skip
