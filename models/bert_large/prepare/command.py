"""`bert-large prepare`: make pretraining records from text."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path

from tqdm import tqdm

from bert_large.errors import InputError
from bert_large.prepare.files import check_outputs, list_input_files
from bert_large.prepare.instances import InstanceSettings
from bert_large.prepare.shards import ShardReport, ShardTask, write_shards
from bert_large.prepare.vocab import read_vocab


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `prepare`."""
    parser.add_argument(
        "--input-dir",
        type=Path,
        required=True,
        help="folder of UTF-8 text files, a sentence a line, blank lines between articles; each makes one record file",
    )
    parser.add_argument("--vocab-file", type=Path, required=True, help="word pieces, one a line")
    parser.add_argument("--output-dir", type=Path, required=True, help="folder for the record files")
    parser.add_argument(
        "--output-suffix",
        default="",
        help="added to an input file's name to name its output (MLCommons' 128-token shards have _128)",
    )
    for setting in fields(InstanceSettings):
        parser.add_argument(
            f"--{setting.name.replace('_', '-')}",
            type=type(setting.default),
            default=setting.default,
            help=f"{setting.metadata['help']} (default {setting.default})",
        )
    parser.add_argument(
        "--do-lower-case",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="lower letters and strip accents, for an uncased vocabulary (the default)",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=len(os.sched_getaffinity(0)),
        help="processes; each holds one file in memory (default: the CPUs this process may use, %(default)s here)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace output files that exist")


def run(arguments: argparse.Namespace) -> int:
    """Make the records and say how many; raise `InputError` for anything wrong before work starts."""
    start = time.perf_counter()
    settings = InstanceSettings(**{field.name: getattr(arguments, field.name) for field in fields(InstanceSettings)})
    if arguments.workers < 1:
        raise InputError(f"--workers is {arguments.workers}, expected at least 1")
    tasks = _plan(arguments)
    vocabulary = read_vocab(arguments.vocab_file)
    check_outputs([task.output_file for task in tasks], input_dir=arguments.input_dir, overwrite=arguments.overwrite)
    reports = write_shards(
        tasks, vocabulary, settings, do_lower_case=arguments.do_lower_case, workers=arguments.workers
    )
    done = list(_show_progress(reports, tasks))
    records, tokens = sum(report.records for report in done), sum(report.tokens for report in done)
    print(
        f"wrote {records} records with {tokens} tokens to {len(done)} files in {arguments.output_dir}, "
        f"{time.perf_counter() - start:.1f} s"
    )
    return 0


def _plan(arguments: argparse.Namespace) -> list[ShardTask]:
    suffix = arguments.output_suffix
    if Path(suffix).name != suffix:
        raise InputError(f"--output-suffix is {suffix!r}, expected the end of a file name, without a folder")
    return [
        ShardTask(path, arguments.output_dir / f"{path.name}{suffix}") for path in list_input_files(arguments.input_dir)
    ]


def _show_progress(reports: Iterable[ShardReport], tasks: list[ShardTask]) -> Iterable[ShardReport]:
    """Pass the reports on, with a bar of the bytes done on a terminal and else a line for each file."""
    total_bytes = sum(task.input_file.stat().st_size for task in tasks)
    is_terminal = sys.stderr.isatty()
    with tqdm(total=total_bytes, unit="B", unit_scale=True, disable=not is_terminal, file=sys.stderr) as bar:
        for number, report in enumerate(reports, start=1):
            bar.update(report.task.input_file.stat().st_size)
            name = report.task.output_file.name
            if not is_terminal:
                counts = f"{report.records} records, {report.tokens} tokens, {report.seconds:.1f} s"
                tqdm.write(f"{number}/{len(tasks)} {name}: {counts}", file=sys.stderr)
            if report.documents == 1:
                tqdm.write(
                    f"warning: {name}: its text is one article, so that next sentences labelled random are from "
                    "the same article; put blank lines between articles, or join files",
                    file=sys.stderr,
                )
            yield report
