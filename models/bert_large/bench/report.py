"""What the benchmarks' figures have in common, and tables for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bert_large.config.model import ModelConfig


def describe_model(model: ModelConfig, *, has_heads: bool = True) -> dict[str, Any]:
    """Return the model's shape as figures; without the heads and the embeddings it has no vocabulary."""
    shape = {
        "layers": model.num_hidden_layers,
        "hidden_size": model.hidden_size,
        "attention_heads": model.num_attention_heads,
        "intermediate_size": model.intermediate_size,
    }
    vocabulary = {"vocab_size": model.vocab_size} if has_heads else {}
    return shape | vocabulary | {"dropout": model.hidden_dropout_prob}


def seconds_cells(timing: Mapping[str, Any]) -> list[str]:
    """Return the cells of a timing's figures: the fastest round and the middle one."""
    return [f"{timing[which]:.4f}" for which in ("minimum", "median")]


def not_comparable_lines(figures: Mapping[str, Any]) -> list[str]:
    """Return a line for each that has no time, as it computes something else."""
    return [f"{name}: not comparable: {difference}" for name, difference in figures["not_comparable"].items()]


def format_rows(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as aligned columns: the first to the left, figures to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            [
                row[0].ljust(widths[0]),
                *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
            ]
        ).rstrip()
        for row in rows
    )


def format_markdown(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as a Markdown table; the first is its head."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])
