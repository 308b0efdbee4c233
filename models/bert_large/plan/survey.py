"""The data of a planned run: counted in its records, or estimated from a sample of its text."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import json
import lzma
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bert_large.data.folders import find_training_folder, list_shards
from bert_large.data.formats import format_of
from bert_large.data.record import BadRecordError, Record
from bert_large.errors import DamageError, InputError
from bert_large.prepare.compressed import COMPRESSED_SUFFIXES, open_decompressed, plain_name
from bert_large.prepare.dataset import EVAL_RECORDS, TextSettings, make_dataset
from bert_large.prepare.manifest import read_manifest
from bert_large.prepare.sentences import split_sentences
from bert_large.prepare.settings import DEFAULT_TEXT_FIELD, CorpusSettings
from bert_large.prepare.table_files import count_rows, iterate_parquet
from bert_large.prepare.text_encoding import read_text
from bert_large.prepare.text_files import list_files, total_bytes
from bert_large.prepare.text_forms import resolve_forms
from bert_large.train.checked import Run

_SHARDS = 4
_RECORDS_PER_SHARD = 2048
_TEXT_BYTES = 3 << 20
"""Text from which records are made to estimate those of all text; a smaller one is used as a whole."""
_TEXT_FILES = 12
_RATIO_BYTES = 4 << 20
_ARTICLE_ENDS = {"sentences": "", "paragraphs": "", "wikiextractor": "</doc>", "mediawiki": "</page>"}
"""The line that ends an article, by form; in other forms, each line is one."""
_COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


@dataclass(frozen=True, kw_only=True)
class DataSurvey:
    """Records that a run trains or evaluates on."""

    records: int
    tokens: int
    """Real tokens of all records."""
    sample: Sequence[Record]
    bytes: int
    """Size of the record files."""
    seconds_per_record: float
    """Time in which one process reads and checks a record, as before the first step."""
    origin: str
    """How the numbers were found."""
    preparation_seconds: float = 0.0
    """Time to make the records, if they are made of text."""
    corpus_bytes: int = 0
    """Size of the intermediate text, if they are."""

    @property
    def mean_tokens(self) -> float:
        """Real tokens per record."""
        return self.tokens / self.records

    def times(self, factor: float, origin: str, seconds: float, corpus_bytes: int) -> DataSurvey:
        """Return the survey of `factor` times the data."""
        return replace(
            self,
            records=round(self.records * factor),
            tokens=round(self.tokens * factor),
            bytes=round(self.bytes * factor),
            preparation_seconds=seconds * factor,
            corpus_bytes=round(corpus_bytes * factor),
            origin=origin,
        )


def survey(run: Run) -> tuple[DataSurvey, DataSurvey | None]:
    """Return what is known of a run's training and evaluation records; `InputError` if there are none."""
    if run.text is not None and run.data.text_dir is not None:
        return survey_text(run.data.text_dir, run.text)
    training = survey_records(find_training_folder(run.data.dataset_dir, run.data.max_seq_length))
    return training, None if run.data.eval_dir is None else survey_records(run.data.eval_dir)


def survey_records(folder: Path) -> DataSurvey:
    """Count the records of a folder of shards, from its manifest or the sizes of its files and a sample of records."""
    shards = list_shards(folder)
    chosen = _spaced(shards, _SHARDS)
    started = time.perf_counter()
    sampled = [_sample_shard(path) for path in chosen]
    sample = [record for records, _, _ in sampled for record in records]
    if not sample:
        raise InputError(
            f"{folder}: no intact record in {len(chosen)} of its {len(shards)} files; check them, or make new"
        )
    seconds = (time.perf_counter() - started) / sum(count for _, count, _ in sampled)
    size, seen = total_bytes(shards), sum(bytes_ for _, _, bytes_ in sampled)
    whole = len(chosen) == len(shards) and seen == size
    records = round(sum(count for _, count, _ in sampled) * (1 if whole else size / seen))
    tokens = round(records * sum(len(record.input_ids) for record in sample) / len(sample))
    origin = "counted" if whole else f"estimated from {len(sample)} records of {len(chosen)} of {len(shards)} files"
    with contextlib.suppress(DamageError, KeyError):
        manifest = read_manifest(folder)
        if manifest is not None and {path.name for path in shards} == set(manifest.outputs):
            outputs = manifest.outputs.values()
            records, tokens = (sum(output[name] for output in outputs) for name in ("records", "tokens"))
            origin = "counted in its manifest"
    return DataSurvey(
        records=records, tokens=tokens, sample=sample, bytes=size, seconds_per_record=seconds, origin=origin
    )


def _sample_shard(path: Path) -> tuple[list[Record], int, int]:
    """Return the first good records of a shard, how many records were read, and the bytes that they take."""
    shard_format, count = format_of(path), 0
    records: list[Record] = []
    with contextlib.closing(shard_format.open(path)) as shard:
        for count, (offset, facts) in enumerate(shard.scan(), start=1):
            if len(records) >= _RECORDS_PER_SHARD:
                if shard_format.offset_unit == "byte":
                    return records, count - 1, offset
            elif not isinstance(facts, BadRecordError):
                records.append(shard.read(offset, count - 1).record)
    return records, count, path.stat().st_size


def survey_text(text_dir: Path, settings: TextSettings) -> tuple[DataSurvey, DataSurvey | None]:
    """Make records of a sample of the text, by the same steps as the run, and scale them to all text."""
    files = [path for path in list_files(text_dir, recursive=True, log=_ignore) if path.stat().st_size]
    with tempfile.TemporaryDirectory(prefix="bert-large-plan-") as place:
        sample, target = Path(place) / "text", Path(place) / "records"
        sample.mkdir()
        size, sampled = _write_sample(files, sample)
        started = time.perf_counter()
        make_dataset(sample, target, settings, _ignore)
        seconds, factor = time.perf_counter() - started, size / sampled
        origin = "counted" if factor == 1 else f"estimated from {sampled / 2**20:.1f} of {size / 2**20:.0f} MiB of text"
        corpus_bytes = total_bytes(path for path in (target / "corpus").rglob("*") if path.is_file())
        training = survey_records(target / f"seq_{settings.max_seq_length}")
        evaluation = survey_records(target / "eval") if (target / "eval").is_dir() else None
    scaled = training.times(factor, origin, seconds, corpus_bytes)
    return scaled, None if evaluation is None else _cap(evaluation.times(factor, origin, 0.0, 0))


def _cap(evaluation: DataSurvey) -> DataSurvey:
    """Return the part of the held-out records that a run picks."""
    return evaluation.times(min(1.0, EVAL_RECORDS / evaluation.records), evaluation.origin, 0.0, 0)


def _write_sample(files: Sequence[Path], folder: Path) -> tuple[int, int]:
    """Write the beginnings of some files, or small text as a whole.

    Returns the bytes of all text, which is estimated where it is compressed, and those of the sample.
    """
    form, encodings = resolve_forms(files, CorpusSettings(), split_sentences)
    if form == "parquet":
        return _write_rows(files, folder)
    compressed = [path for path in files if path.suffix in COMPRESSED_SUFFIXES]
    size = total_bytes(files)
    whole = size <= _TEXT_BYTES and not compressed
    chosen = files if whole else _spaced(files, _TEXT_FILES)
    sampled = 0
    for number, path in enumerate(chosen):
        content = _head(path, _TEXT_BYTES if whole else _TEXT_BYTES // len(chosen), form, encodings[path])
        (folder / f"{number:05d}-{plain_name(path)}").write_text(content, encoding="utf-8")
        sampled += len(content.encode())
    if compressed:
        ratios = [_ratio(path) for path in _spaced(compressed, _SHARDS)]
        size += round(total_bytes(compressed) * (sum(ratios) / len(ratios) - 1))
    return max(size, sampled), sampled


def _spaced(paths: Sequence[Path], most: int) -> list[Path]:
    """Return at most `most` of the paths, evenly spaced."""
    count = min(most, len(paths))
    return [paths[number * len(paths) // count] for number in range(count)]


def _write_rows(files: Sequence[Path], folder: Path) -> tuple[int, int]:
    """Write the first texts of some Parquet tables, one JSON object each; the size of all follows from their rows."""
    sampled, rows = 0, 0
    chosen = _spaced(files, _TEXT_FILES)
    for number, path in enumerate(chosen):
        with (folder / f"{number:05d}.jsonl").open("w", encoding="utf-8") as file:
            written = 0
            for text in iterate_parquet(path, DEFAULT_TEXT_FIELD):
                written += file.write(f"{json.dumps({DEFAULT_TEXT_FIELD: text})}\n")
                rows += 1
                if written >= _TEXT_BYTES // len(chosen):
                    break
        sampled += written
    return max(sampled, round(sampled / max(1, rows) * sum(map(count_rows, files)))), sampled


def _head(path: Path, most: int, form: str, encoding: str) -> str:
    """Return the beginning of a file up to the first end of an article after `most` characters."""
    lines: list[str] = []
    size, quotes = 0, 0
    end = _ARTICLE_ENDS.get(form)
    for line in read_text(path, encoding):
        lines.append(line)
        size += len(line)
        quotes += line.count('"')  # a row of a table ends where all quotes are closed
        if size >= most and (quotes % 2 == 0 if form == "csv" else end is None or line.strip() == end):
            break
    return "".join(lines) + ("</mediawiki>\n" if form == "mediawiki" and "</mediawiki>" not in lines[-1] else "")


def _ratio(path: Path) -> float:
    """Return the bytes of text per byte of a compressed file; of a large one, its beginning is compressed again."""
    with open_decompressed(path) as file:
        text = file.read(_RATIO_BYTES)
    if len(text) < _RATIO_BYTES:
        return len(text) / path.stat().st_size
    return len(text) / len(_COMPRESSORS.get(path.suffix, gzip.compress)(text))


def _ignore(text: str) -> None:
    pass
