"""Options of the benchmarks, here and in benchmarks/."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from bert_large.config.model import ModelConfig
from bert_large.config.options import CommandParser, add_settings, setting
from bert_large.config.training import PRECISIONS, RECIPE_SETTINGS, TrainConfig

COUNT = "[1, 1000000]"
"""Range of counts: a mistyped digit more is an error here, not an hour later."""
_GLOBAL_BATCH_SIZES = {1: 32, 2: 8}
_HUGGING_FACE_BATCH_SIZES = {1: 16, 2: 4}
"""Sequences of a padded micro-batch of Hugging Face's model by phase: 2048 tokens; larger ones were not faster."""
_HEAD_SIZE = 64
_POSITIONS = 512
Options = TypeVar("Options", bound="BenchmarkOptions")


@dataclass(frozen=True, kw_only=True)
class BenchmarkOptions:
    """Options of every benchmark; the model has the shape of BERT-large by default."""

    engine: str = setting("auto", "engine, as for pretrain", variable="")
    precision: str = setting("fp32", "precision, as for pretrain", choices=PRECISIONS, variable="")
    rounds: int = setting(7, "timed rounds", within=COUNT, variable="")
    warmups: int = setting(1, "untimed rounds before them", within="[0, 1000000]", variable="")
    json: bool = setting(False, "print one JSON object instead of a table", variable="")
    layers: int = setting(2, "encoder layers", within=COUNT, variable="")
    hidden_size: int = setting(1024, "hidden size", within=COUNT, variable="")
    attention_heads: int | None = setting(
        None, "attention heads", within=COUNT, variable="", default_text="one per 64 of the hidden size"
    )
    intermediate_size: int | None = setting(
        None, "intermediate size", within=COUNT, variable="", default_text="four times the hidden size"
    )
    vocab_size: int = setting(30522, "vocabulary size", within="[2, 1000000]", variable="")
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

    phase: int = setting(1, "1: at most 128 tokens per sequence; 2: at most 512", within="[1, 2]", variable="")
    global_batch_size: int | None = setting(
        None, "sequences per step", within=COUNT, variable="", default_text="32, phase 2: 8"
    )
    micro_batch_tokens: int = setting(
        TrainConfig.micro_batch_tokens, "most tokens of a forward and backward pass", within=COUNT, variable=""
    )

    @property
    def batch_size(self) -> int:
        """Sequences per step."""
        return self.global_batch_size or _GLOBAL_BATCH_SIZES[self.phase]


@dataclass(frozen=True, kw_only=True)
class StepOptions(BenchmarkOptions):
    """Options of `bench step`."""

    seq_len: int = setting(128, "tokens of every sequence", within="[5, 1000000]", variable="")
    """At least [CLS], one token of each segment, and two [SEP]."""
    vocab_size: int = 8
    """Not an option: only the encoder runs."""
    batch_size: int = setting(16, "sequences", within=COUNT, variable="")
    compare: Sequence[str] = ("hugging-face", "hugging-face-sdpa")

    @property
    def longest_sequence(self) -> int:
        """Tokens of the longest sequence."""
        return self.seq_len


@dataclass(frozen=True, kw_only=True)
class TrainOptions(PhaseOptions):
    """Options of `bench train`."""

    layers: int = setting(12, "encoder layers", within=COUNT, variable="")
    steps: int = setting(1, "optimizer steps per round", within=COUNT, variable="")
    data_workers: int = setting(1, "processes that read ahead", within="[0, 4096]", variable="")
    hugging_face_batch_size: int | None = setting(
        None, "sequences of its micro-batches", within=COUNT, variable="", default_text="16, phase 2: 4"
    )
    compare: Sequence[str] = ("hugging-face",)

    @property
    def padded_batch_size(self) -> int:
        """Sequences of a padded micro-batch of Hugging Face's model."""
        return self.hugging_face_batch_size or _HUGGING_FACE_BATCH_SIZES[self.phase]


@dataclass(frozen=True, kw_only=True)
class CheckpointOptions(BenchmarkOptions):
    """Options of `bench checkpoint`."""

    rounds: int = setting(3, "timed rounds", within=COUNT, variable="")
    layers: int = setting(24, "encoder layers", within=COUNT, variable="")
    output_dir: Path = setting(Path("output"), "a folder on the disk to measure", variable="")
    save_every: int = setting(
        RECIPE_SETTINGS["save_every"].default, "steps between checkpoints", within=COUNT, variable=""
    )
    step_seconds: float | None = setting(
        None, "step time, to compute the share of time spent saving", unit="seconds", within="(0, 1e6]", variable=""
    )


def parse_options(kind: type[Options], arguments: argparse.Namespace) -> Options:
    """Return the options of a benchmark from parsed arguments."""
    return kind(**{field.name: getattr(arguments, field.name) for field in dataclasses.fields(kind)
                   if hasattr(arguments, field.name)})  # fmt: skip


def script_parser(kind: type, description: str) -> CommandParser:
    """Return the parser of a script in benchmarks/."""
    parser = CommandParser(description=description)
    add_settings(parser, kind)
    return parser
