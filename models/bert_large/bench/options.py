"""Options of the benchmarks, here and in benchmarks/."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from bert_large.config.model import ModelConfig
from bert_large.config.options import CommandParser, add_settings, option
from bert_large.config.training import PRECISIONS, RECIPE_SETTINGS, TrainConfig

COUNT = "[1, 1000000]"
"""Range of counts: a mistyped digit more is an error here, not an hour later."""
_GLOBAL_BATCH_SIZES = {1: 32, 2: 8}
_HUGGING_FACE_BATCH_SIZES = {1: 16, 2: 4}
"""Sequences of a padded micro-batch of Hugging Face's model by phase: 2048 tokens; larger ones were not faster."""
_HEAD_SIZE = 64
_POSITIONS = 512
Options = TypeVar("Options", bound="BenchmarkOptions")
AnyOptions = TypeVar("AnyOptions")


@dataclass(frozen=True, kw_only=True)
class BenchmarkOptions:
    """Options of every benchmark; the model has the shape of BERT-large by default."""

    engine: str = option("auto", "engine, as for pretrain")
    precision: str = option("fp32", "precision, as for pretrain", choices=PRECISIONS)
    rounds: int = option(7, "timed rounds", within=COUNT)
    warmups: int = option(1, "untimed rounds before them", within="[0, 1000000]")
    json: bool = option(False, "print one JSON object instead of a table")
    layers: int = option(2, "encoder layers", within=COUNT)
    hidden_size: int = option(1024, "hidden size", within=COUNT)
    attention_heads: int | None = option(
        None, "attention heads", within=COUNT, default_text="one per 64 of the hidden size"
    )
    intermediate_size: int | None = option(
        None, "intermediate size", within=COUNT, default_text="four times the hidden size"
    )
    vocab_size: int = option(30522, "vocabulary size", within="[2, 1000000]")
    compare: Sequence[str] = ()

    @property
    def longest_sequence(self) -> int:
        """Tokens of the longest sequence."""
        return _POSITIONS

    @property
    def model(self) -> ModelConfig:
        """Configuration of the model."""
        return ModelConfig(
            vocab_size=self.vocab_size,
            hidden_size=self.hidden_size,
            num_hidden_layers=self.layers,
            num_attention_heads=self.attention_heads or max(1, self.hidden_size // _HEAD_SIZE),
            intermediate_size=self.intermediate_size or 4 * self.hidden_size,
            max_position_embeddings=max(_POSITIONS, self.longest_sequence),
        )


@dataclass(frozen=True, kw_only=True)
class PhaseOptions(BenchmarkOptions):
    """Options of benchmarks that train on sequences of real lengths."""

    phase: int = option(1, "1: at most 128 tokens per sequence; 2: at most 512", within="[1, 2]")
    global_batch_size: int | None = option(None, "sequences per step", within=COUNT, default_text="32, phase 2: 8")
    micro_batch_tokens: int = option(
        TrainConfig.micro_batch_tokens, "most tokens of a forward and backward pass", within=COUNT
    )

    @property
    def batch_size(self) -> int:
        """Sequences per step."""
        return self.global_batch_size or _GLOBAL_BATCH_SIZES[self.phase]


@dataclass(frozen=True, kw_only=True)
class StepOptions(BenchmarkOptions):
    """Options of `bench step`."""

    rounds: int = option(30, "timed rounds", within=COUNT)
    layers: int = option(1, "encoder layers", within=COUNT)
    """One: rounds of tenths of a second alternate faster than the machine's load changes."""
    seq_len: int = option(128, "tokens of every sequence", within="[5, 1000000]")
    """At least [CLS], one token of each segment, and two [SEP]."""
    vocab_size: int = 8
    """Not an option: only the encoder runs."""
    batch_size: int = option(16, "sequences", within=COUNT)
    compare: Sequence[str] = ("hugging-face", "hugging-face-sdpa")

    @property
    def longest_sequence(self) -> int:
        """Tokens of the longest sequence."""
        return self.seq_len


@dataclass(frozen=True, kw_only=True)
class TrainOptions(PhaseOptions):
    """Options of `bench train`."""

    layers: int = option(12, "encoder layers", within=COUNT)
    steps: int = option(1, "optimizer steps per round", within=COUNT)
    data_workers: int = option(1, "processes that read ahead", within="[0, 4096]")
    hugging_face_batch_size: int | None = option(
        None, "sequences of its micro-batches", within=COUNT, default_text="16, phase 2: 4"
    )
    compare: Sequence[str] = ("hugging-face",)

    @property
    def padded_batch_size(self) -> int:
        """Sequences of a padded micro-batch of Hugging Face's model."""
        return self.hugging_face_batch_size or _HUGGING_FACE_BATCH_SIZES[self.phase]


@dataclass(frozen=True, kw_only=True)
class CheckpointOptions(BenchmarkOptions):
    """Options of `bench checkpoint`."""

    rounds: int = option(3, "timed rounds", within=COUNT)
    layers: int = option(24, "encoder layers", within=COUNT)
    output_dir: Path = option(Path("output"), "a folder on the disk to measure")
    save_every: int = option(RECIPE_SETTINGS["save_every"].default, "steps between checkpoints", within=COUNT)
    step_seconds: float | None = option(
        None, "step time, to compute the share of time spent saving", unit="seconds", within="(0, 1e6]"
    )


def parse_options(kind: type[AnyOptions], arguments: argparse.Namespace) -> AnyOptions:
    """Return the options of a benchmark, a dataclass, from parsed arguments."""
    fields = dataclasses.fields(cast(Any, kind))
    return kind(**{field.name: getattr(arguments, field.name) for field in fields
                   if hasattr(arguments, field.name)})  # fmt: skip


def script_parser(kind: type, description: str) -> CommandParser:
    """Return the parser of a script in benchmarks/."""
    parser = CommandParser(description=description)
    add_settings(parser, kind)
    return parser
