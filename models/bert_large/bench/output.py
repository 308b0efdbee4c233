"""Output that the benchmarks share: JSON results and parts of the tables."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from bert_large.config.model import ModelConfig


def describe_model(model: ModelConfig, *, has_heads: bool = True) -> dict[str, Any]:
    """Return the model's shape for the results; an encoder alone has no vocabulary."""
    shape = {
        "layers": model.num_hidden_layers,
        "hidden_size": model.hidden_size,
        "attention_heads": model.num_attention_heads,
        "intermediate_size": model.intermediate_size,
    }
    vocabulary = {"vocab_size": model.vocab_size} if has_heads else {}
    return shape | vocabulary | {"dropout": model.hidden_dropout_prob}


def to_json(results: Mapping[str, Any]) -> str:
    """Return results as one line of JSON; values that are not finite, which JSON does not have, become null."""
    return json.dumps(_without_non_finite(results), allow_nan=False)


def _without_non_finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_non_finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_without_non_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def seconds_cells(timing: Mapping[str, Any]) -> list[str]:
    """Return two table cells: the seconds of the fastest round and of the median one."""
    return [f"{timing[which]:.4f}" for which in ("minimum", "median")]


def not_comparable_lines(results: Mapping[str, Any]) -> list[str]:
    """Return one line per variant that was not timed because it computes something different."""
    return [f"{name}: not comparable: {difference}" for name, difference in results["not_comparable"].items()]
