"""The settings of `corpus`, `vocab` and `prepare`, apart from paths."""

from __future__ import annotations

import argparse
import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bert_large.config.options import check_fields, option, setting
from bert_large.config.training import MASKED_LM_PROB, SEQUENCES, Checked
from bert_large.data.formats import FORMATS
from bert_large.data.record import RecordShape
from bert_large.prepare.text_encoding import is_encoding

PAIRS, PACKED = SEQUENCES
SEPARATORS = 3  # [CLS], and a [SEP] after each segment
MIN_SEGMENT_PAIR = 2  # a token in each segment
MIN_ARTICLES = 2  # a random next sentence is from another article
SHARD_BYTES = 32 << 20
"""Text per file of a corpus."""
DEFAULT_EVAL_ARTICLES, DEFAULT_EVAL_SHARE = 10_000, 0.02

CPUS = len(os.sched_getaffinity(0))
_WORKERS = {"within": "[1, 4096]", "default_text": "the CPUs that this process may use"}

# Forms of text files, and what each line of them holds.
TEXT_FORMS = {
    "sentences": "one sentence per line, blank lines between articles (like MLCommons' files)",
    "paragraphs": "one paragraph per line, blank lines between articles",
    "articles": "one article per line",
    "wikiextractor": "<doc id=…> … </doc> blocks of WikiExtractor, one paragraph per line",
    "json": "one JSON object per line, with the article in the field --text-field (also WikiExtractor --json)",
    "csv": "a CSV or TSV table, with an article in the column --text-field of each row",
    "parquet": "a Parquet table, with an article in the column --text-field of each row",
    "mediawiki": "a MediaWiki dump (XML)",
}
DEFAULT_TEXT_FIELD = "text"
DUPLICATES = ("keep", "exact", "near")


@dataclass(frozen=True, kw_only=True)
class CorpusSettings:
    """How `corpus` reads raw text and divides it. Raises `InputError` naming every invalid value."""

    input_format: str = setting(
        "auto",
        "; ".join(f"{name}: {meaning}" for name, meaning in TEXT_FORMS.items()),
        choices=("auto", *TEXT_FORMS),
        default_text="detected for each file",
    )
    text_field: str | None = setting(
        None,
        "field of JSON objects or column of tables that holds the text; a number is a column of a CSV or TSV file "
        "whose first row has no names",
        default_text=DEFAULT_TEXT_FIELD,
    )
    encoding: str | None = setting(
        None,
        "encoding of all text files, such as utf-16-le or cp1252",
        variable="TEXT_ENCODING",
        default_text="detected for each file",
    )
    duplicates: str = setting(
        "exact",
        "keep: remove no articles; exact: remove copies of earlier articles; near: also remove near-duplicates, which "
        "share most of their word 5-grams (MinHash)",
        choices=DUPLICATES,
    )
    language: str = setting(
        "en", "language whose rules split sentences, as an ISO 639 code; English if unknown", variable="TEXT_LANGUAGE"
    )
    shards: int | None = setting(
        None,
        "text files to make for both phases",
        within="[1, 1000000]",
        default_text=f"one per {SHARD_BYTES >> 20} MiB of text",
    )
    phase1_fraction: float = setting(
        0.9,
        "share of the text for phase 1, the rest is for phase 2; with 1, both phases train on all of it",
        within="(0, 1]",
    )
    eval_articles: int | None = setting(
        None,
        "articles to hold out, chosen by a hash of their text; 0, or at least 2",
        within="[0, inf)",
        default_text=f"one in {round(1 / DEFAULT_EVAL_SHARE)}, at most {DEFAULT_EVAL_ARTICLES}",
    )
    workers: int = setting(CPUS, "processes", **_WORKERS)

    def __post_init__(self) -> None:
        problems = []
        if self.encoding is not None and not is_encoding(self.encoding):
            problems.append(f"--encoding is {self.encoding!r}, expected an encoding that Python knows, such as cp1252")
        if self.shards is not None and self.shards < self.fewest_shards:
            problems.append(f"--shards is {self.shards}, expected at least {self.fewest_shards}, one for each phase")
        if self.eval_articles is not None and 0 < self.eval_articles < MIN_ARTICLES:
            problems.append(f"--eval-articles is {self.eval_articles}, expected 0 or at least {MIN_ARTICLES}")
        check_fields(self, problems)

    @property
    def fewest_shards(self) -> int:
        """One for each phase."""
        return 1 if self.phase1_fraction == 1 else 2


@dataclass(frozen=True, kw_only=True)
class VocabularySettings(Checked):
    """How `vocab` trains a vocabulary. Raises `InputError` naming every invalid value."""

    vocab_size: int = setting(30522, "largest number of tokens", within="[1, 100000000]")
    min_frequency: int = option(2, "occurrences of two pieces side by side that make them one piece", within="[1, inf)")
    limit_alphabet: int | None = option(
        None,
        "largest number of characters to keep, the most frequent ones",
        within="[1, inf)",
        default_text="1000, all others of each script that makes up 1% of the text up to half of the vocabulary, and "
        "any others that fill an incomplete vocabulary",
    )
    do_lower_case: bool = option(True, "lowercase the text")
    strip_accents: bool | None = option(None, "strip accents from the text", default_text="as --do-lower-case")


@dataclass(frozen=True, kw_only=True)
class InstanceSettings:
    """How `prepare` makes instances, by default for phase 1. Raises `InputError` naming every invalid value."""

    max_seq_length: int = option(
        128, "tokens per sequence, including [CLS] and both [SEP]", within=f"[{SEPARATORS + MIN_SEGMENT_PAIR}, 65536]"
    )
    sequences: str = setting(
        PAIRS,
        "pairs: two segments for the next-sentence task, as in MLCommons' records; packed: full sequences for masked "
        "LM only, in which the parts of different documents have separate attention and positions",
        choices=SEQUENCES,
    )
    max_predictions_per_seq: int = option(20, "largest number of masked tokens per sequence", within="[1, 65536]")
    dupe_factor: int = setting(10, "passes over the text, each with different pairs and masks", within="[1, 1000000]")
    masked_lm_prob: float = option(MASKED_LM_PROB, "share of a sequence's tokens to mask", within="(0, 1]")
    short_seq_prob: float = option(
        0.1, "share of the passes over a document that aim at shorter sequences", within="[0, 1]"
    )
    random_seed: int = setting(12345, "seed of pairs and masks; every file starts from it", within="[0, inf)")

    def __post_init__(self) -> None:
        problems = []
        if self.max_predictions_per_seq > self.max_tokens:
            problems.append(
                f"--max-predictions-per-seq is {self.max_predictions_per_seq}, expected at most {self.max_tokens}, the "
                f"tokens of a sequence of --max-seq-length {self.max_seq_length} that can be masked"
            )
        check_fields(self, problems)

    @property
    def max_tokens(self) -> int:
        """Largest number of tokens of both segments together."""
        return self.max_seq_length - SEPARATORS

    @property
    def record_shape(self) -> RecordShape:
        """The slots of the records made with these settings."""
        return RecordShape(self.max_seq_length, self.max_predictions_per_seq)


@dataclass(frozen=True, slots=True)
class Part:
    """One of several parts of the files, numbered from 1."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Part:
        """Return the part that `I/N` means; raises `ValueError`."""
        number, slash, count = text.partition("/")
        if not (slash and number.isdecimal() and count.isdecimal() and text.isascii()):
            raise ValueError(text)
        if not 1 <= int(number) <= int(count):
            raise ValueError(text)
        return cls(int(number), int(count))

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


@dataclass(frozen=True, kw_only=True)
class RecordFileSettings:
    """How `prepare` writes record files. Raises `InputError` naming every invalid value."""

    format: str = option("tfrecord", "MLCommons' TFRecord or NVIDIA's HDF5", choices=tuple(sorted(FORMATS)))
    output_suffix: str = option(
        "", "appended to a text file's name to name its TFRecord file (MLCommons' 128-token files end in _128)"
    )
    output_name: str | None = option(
        None,
        "name of HDF5 files: NAME_0.hdf5, NAME_1.hdf5 … in the order of the text files",
        default_text="corpus_training",
    )
    workers: int = setting(CPUS, "processes, each with one text file in memory", **_WORKERS)
    part: str | None = option(
        None,
        "I/N: make only every N-th file, beginning with the I-th, for array jobs that share the output folder",
        default_text="all files",
    )

    def __post_init__(self) -> None:
        suffix, name = self.output_suffix, self.output_name
        has_suffix = self.format in FORMATS and bool(FORMATS[self.format].suffixes)
        checks = (
            (Path(suffix).name == suffix, f"--output-suffix is {suffix!r}, expected the end of a file name"),
            (name is None or Path(name).name == name, f"--output-name is {name!r}, expected the start of a file name"),
            (
                not (suffix and has_suffix),
                f"--output-suffix is {suffix!r}, but --output-name names {self.format} files",
            ),
            (name is None or has_suffix, f"--output-name is {name!r}, but TFRecords are named after the text files"),
        )
        problems = [problem for is_valid, problem in checks if not is_valid]
        if self.part is not None:
            try:
                Part.parse(self.part)
            except ValueError:
                problems.append(f"--part is {self.part!r}, expected I/N with I from 1 to N, such as 3/16")
        check_fields(self, problems)


def from_arguments(config: type, arguments: argparse.Namespace) -> Any:
    """Return the settings that the options give."""
    return config(**{field.name: getattr(arguments, field.name) for field in dataclasses.fields(config)})
