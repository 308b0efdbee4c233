"""The settings of `corpus`, `vocab` and `prepare`: one dataclass field per option, with its default and help."""

from __future__ import annotations

import argparse
import dataclasses
import os
import typing
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bert_large.data.masking import MASKED_LM_PROB
from bert_large.data.record import RecordShape
from bert_large.errors import InputError

SEPARATORS = 3  # [CLS], and a [SEP] after each segment
MIN_SEGMENT_PAIR = 2  # a token in each segment
MIN_ARTICLES = 2  # a random next sentence is from another article
SHARD_BYTES = 32 << 20
"""Text per file of a corpus."""
DEFAULT_EVAL_ARTICLES, DEFAULT_EVAL_SHARE = 10_000, 0.02

# Forms of text files, and what each line of them holds.
TEXT_FORMS = {
    "sentences": "one sentence per line, blank lines between articles (as MLCommons' files)",
    "paragraphs": "one paragraph per line, blank lines between articles",
    "articles": "one article per line",
    "wikiextractor": "<doc id=…> … </doc> blocks of WikiExtractor, one paragraph per line",
    "json": 'one JSON object per line, with the article in its field "text" (WikiExtractor --json)',
}


def _setting(default: Any, text: str, **details: Any) -> Any:
    return dataclasses.field(default=default, metadata={"setting": {"help": text, **details}})


@dataclass(frozen=True, kw_only=True)
class CorpusSettings:
    """How `corpus` reads raw text and divides it. Raises `InputError` naming every invalid value."""

    input_format: str = _setting(
        "auto",
        "; ".join(f"{name}: {meaning}" for name, meaning in TEXT_FORMS.items()) + "; auto: detected for each file",
        choices=("auto", *TEXT_FORMS),
    )
    language: str = _setting("en", "language whose rules split sentences, as an ISO 639 code; English if unknown")
    shards: int | None = _setting(
        None, f"text files to make for both phases (default: one per {SHARD_BYTES >> 20} MiB of text)"
    )
    phase1_fraction: float = _setting(
        0.9, "share of the text for phase 1, the rest is for phase 2; with 1, both phases train on all of it"
    )
    eval_articles: int | None = _setting(
        None,
        "articles to hold out, chosen by a hash of their text (default: one in "
        f"{round(1 / DEFAULT_EVAL_SHARE)}, at most {DEFAULT_EVAL_ARTICLES})",
    )

    def __post_init__(self) -> None:
        held_out = self.eval_articles
        _require(
            ("input-format", self.input_format, self.input_format in ("auto", *TEXT_FORMS), "a known form"),
            ("phase1-fraction", self.phase1_fraction, 0 < self.phase1_fraction <= 1, "above 0 and at most 1"),
            (
                "shards",
                self.shards,
                self.shards is None or self.shards >= self.fewest_shards,
                f"at least {self.fewest_shards}",
            ),
            (
                "eval-articles",
                held_out,
                held_out is None or held_out == 0 or held_out >= MIN_ARTICLES,
                "0, or 2 or more",
            ),
        )

    @property
    def fewest_shards(self) -> int:
        """One for each phase."""
        return 1 if self.phase1_fraction == 1 else 2


@dataclass(frozen=True, kw_only=True)
class VocabularySettings:
    """How `vocab` trains a vocabulary. Raises `InputError` naming every invalid value."""

    vocab_size: int = _setting(30522, "largest number of tokens")
    min_frequency: int = _setting(2, "occurrences of two pieces side by side that make them one piece")
    limit_alphabet: int | None = _setting(
        None,
        "largest number of characters to keep, the most frequent ones (default: 1000, all others of each script that "
        "makes up 1% of the text up to half of the vocabulary, and any others that fill an incomplete vocabulary)",
    )
    do_lower_case: bool = _setting(True, "lowercase the text")
    strip_accents: bool | None = _setting(None, "strip accents (default: as --do-lower-case)")

    def __post_init__(self) -> None:
        limit = self.limit_alphabet
        _require(
            ("vocab-size", self.vocab_size, self.vocab_size >= 1, "at least 1"),
            ("min-frequency", self.min_frequency, self.min_frequency >= 1, "at least 1"),
            ("limit-alphabet", limit, limit is None or limit >= 1, "at least 1"),
        )


@dataclass(frozen=True, kw_only=True)
class InstanceSettings:
    """How `prepare` makes instances of documents; the defaults are for phase 1.

    Raises `InputError` naming every invalid value.
    """

    max_seq_length: int = _setting(128, "tokens per sequence, including [CLS] and both [SEP]")
    max_predictions_per_seq: int = _setting(20, "largest number of masked tokens per sequence")
    dupe_factor: int = _setting(10, "passes over the text, each with different pairs and masks")
    masked_lm_prob: float = _setting(MASKED_LM_PROB, "share of a sequence's tokens to mask")
    short_seq_prob: float = _setting(0.1, "share of the passes over a document that aim at shorter sequences")
    random_seed: int = _setting(12345, "seed of the random numbers; every file starts from it")

    def __post_init__(self) -> None:
        shortest, most = SEPARATORS + MIN_SEGMENT_PAIR, max(1, self.max_tokens)
        predictions = self.max_predictions_per_seq
        _require(
            ("max-seq-length", self.max_seq_length, self.max_seq_length >= shortest, f"at least {shortest}"),
            (
                "max-predictions-per-seq",
                predictions,
                1 <= predictions <= most,
                f"1 to {most}, the tokens of a sequence that can be masked",
            ),
            ("dupe-factor", self.dupe_factor, self.dupe_factor >= 1, "at least 1"),
            ("masked-lm-prob", self.masked_lm_prob, 0 < self.masked_lm_prob <= 1, "above 0 and at most 1"),
            ("short-seq-prob", self.short_seq_prob, 0 <= self.short_seq_prob <= 1, "0 to 1"),
            ("random-seed", self.random_seed, self.random_seed >= 0, "at least 0"),
        )

    @property
    def max_tokens(self) -> int:
        """Largest number of tokens of both segments together."""
        return self.max_seq_length - SEPARATORS

    @property
    def record_shape(self) -> RecordShape:
        """The slots of the records made with these settings."""
        return RecordShape(self.max_seq_length, self.max_predictions_per_seq)


@dataclass(frozen=True, kw_only=True)
class RecordFileSettings:
    """How `prepare` writes record files. Raises `InputError` naming every invalid value."""

    format: str = _setting("tfrecord", "MLCommons' TFRecord or NVIDIA's HDF5", choices=("hdf5", "tfrecord"))
    output_suffix: str = _setting(
        "", "appended to a text file's name to name its TFRecord file (MLCommons' 128-token files end in _128)"
    )
    output_name: str | None = _setting(
        None,
        "name of HDF5 files: NAME_0.hdf5, NAME_1.hdf5 … in the order of the text files (default: corpus_training)",
    )
    workers: int = _setting(
        len(os.sched_getaffinity(0)),
        "processes, each with one text file in memory (default: one per CPU that this process may use)",
    )

    def __post_init__(self) -> None:
        suffix, name, is_hdf5 = self.output_suffix, self.output_name, self.format == "hdf5"
        _require(
            ("format", self.format, self.format in ("hdf5", "tfrecord"), "hdf5 or tfrecord"),
            ("workers", self.workers, self.workers >= 1, "at least 1"),
            ("output-suffix", suffix, Path(suffix).name == suffix, "the end of a file name, without a folder"),
            (
                "output-name",
                name,
                name is None or Path(name).name == name,
                "the start of a file name, without a folder",
            ),
            (
                "output-suffix",
                suffix,
                not (suffix and is_hdf5),
                "none with --format hdf5: --output-name names its files",
            ),
            ("output-name", name, name is None or is_hdf5, "none for TFRecords, which are named after the text files"),
        )


def add_settings(parser: argparse.ArgumentParser, config: type) -> None:
    """Add an option for each setting of a dataclass."""
    hints = typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        setting, option = field.metadata["setting"], f"--{field.name.replace('_', '-')}"
        kind = next(
            kind for kind in typing.get_args(hints[field.name]) or (hints[field.name],) if kind is not type(None)
        )
        if kind is bool:
            parser.add_argument(
                option, action=argparse.BooleanOptionalAction, default=field.default, help=setting["help"]
            )
            continue
        default = "" if field.default in (None, "") or "(default" in setting["help"] else f" (default {field.default})"
        parser.add_argument(
            option,
            type=kind,
            default=field.default,
            choices=setting.get("choices"),
            help=(setting["help"] + default).replace("%", "%%"),
        )


def from_arguments(config: type, arguments: argparse.Namespace) -> Any:
    """Return the settings that the options give."""
    return config(**{field.name: getattr(arguments, field.name) for field in dataclasses.fields(config)})


def _require(*checks: tuple[str, object, bool, str]) -> None:
    """Raise `InputError` with every value that is invalid."""
    problems = _problems(checks)
    if problems:
        raise InputError("; ".join(problems))


def _problems(checks: Iterable[tuple[str, object, bool, str]]) -> list[str]:
    return [
        f"--{option} is {value!r}, expected {expected}" for option, value, is_valid, expected in checks if not is_valid
    ]
