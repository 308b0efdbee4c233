"""`bert-large prepare`: make pretraining records from text."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from bert_large.config.options import add_settings, setting
from bert_large.errors import InputError
from bert_large.prepare.files import check_outputs, list_input_files
from bert_large.prepare.instances import InstanceSettings
from bert_large.prepare.manifest import Manifest, check_same_task, describe_files, read_manifest
from bert_large.prepare.progress import Progress, show_progress
from bert_large.prepare.shards import WRITERS, ShardReport, ShardTask, write_shards
from bert_large.prepare.vocab import Vocabulary, lowers_text, read_vocab
from bert_large.storage.atomic import sha256_of
from bert_large.storage.lock import FolderLock

# A kill costs no more finished shards than this: beyond some hundreds, writing all down after each would take longer.
MANIFEST_SECONDS = 5.0


def _count_cpus() -> int:
    return len(os.sched_getaffinity(0))


@dataclass(frozen=True, kw_only=True)
class PrepareOptions:
    """Input, output and processes of `bert-large prepare`."""

    input_dir: Path = setting(
        text="folder of UTF-8 text files with one sentence per line and blank lines between articles, as "
        "`bert-large corpus` makes them; each becomes one record file",
        variable="",
    )
    vocab_file: Path = setting(text="word pieces, one per line", path="input")
    output_dir: Path = setting(text="folder for the record files", variable="")
    format: str = setting(
        "tfrecord", "MLCommons' TFRecord or NVIDIA's HDF5", choices=tuple(sorted(WRITERS)), variable=""
    )
    output_suffix: str = setting(
        "", "added to an input file's name to name its TFRecord; MLCommons' 128-token shards have _128", variable=""
    )
    output_name: str | None = setting(
        None,
        "HDF5 files are named OUTPUT_NAME_0.hdf5, OUTPUT_NAME_1.hdf5 … in the order of the input files",
        default_text="corpus_training",
        variable="",
    )
    do_lower_case: bool | None = setting(
        None,
        "convert text to lower case and strip accents",
        default_text="as the vocabulary, or tokenizer_config.json beside it, says",
        variable="",
    )
    workers: int = setting(
        _count_cpus(),
        "processes; each holds one file in memory",
        within="[1, 4096]",
        default_text="the CPUs that this process may use",
    )
    overwrite: bool = setting(
        False, "make all files again; without it, finished files of the same settings are kept", variable=""
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `prepare`."""
    add_settings(parser, PrepareOptions)
    add_settings(parser, InstanceSettings)


def run(arguments: argparse.Namespace) -> int:
    """Make the records that are missing and say how many; raise `InputError` for anything wrong before work starts."""
    start = time.perf_counter()
    settings = InstanceSettings(**{field.name: getattr(arguments, field.name) for field in fields(InstanceSettings)})
    tasks = _plan(arguments)
    vocabulary = read_vocab(arguments.vocab_file)
    if arguments.do_lower_case is None:
        arguments.do_lower_case = lowers_text(arguments.vocab_file)
    check_outputs(
        [task.output_file for task in tasks], input_dir=arguments.input_dir, overwrite=True
    )  # makes the folder
    with FolderLock(arguments.output_dir, "--output-dir", lambda text: print(text, file=sys.stderr)):
        work = _open_work(arguments, tasks, settings, vocabulary)
        reports = write_shards(
            work.missing,
            vocabulary,
            settings,
            do_lower_case=arguments.do_lower_case,
            workers=arguments.workers,
            output_format=arguments.format,
        )
        _make(work, reports)
    made = [work.manifest.outputs[task.output_file.name] for task in work.missing]
    records, tokens = sum(output["records"] for output in made), sum(output["tokens"] for output in made)
    kept = f" ({len(tasks) - len(made)} were finished before)" if len(made) < len(tasks) else ""
    print(
        f"wrote {records} records with {tokens} tokens to {len(made)} files in {arguments.output_dir}{kept}, "
        f"{time.perf_counter() - start:.1f} s"
    )
    return 0


@dataclass
class _Work:
    """The shards still to make, and the manifest that they are noted in."""

    folder: Path
    manifest: Manifest
    missing: list[ShardTask]


def _plan(arguments: argparse.Namespace) -> list[ShardTask]:
    suffix, name = arguments.output_suffix, arguments.output_name
    if Path(suffix).name != suffix:
        raise InputError(f"--output-suffix is {suffix!r}, expected the end of a file name, without a folder")
    if name is not None and Path(name).name != name:
        raise InputError(f"--output-name is {name!r}, expected the start of a file name, without a folder")
    inputs = list_input_files(arguments.input_dir)
    if arguments.format == "hdf5":
        if suffix:
            raise InputError("--output-suffix is for TFRecords; --output-name names HDF5 files")
        names = [f"{name or 'corpus_training'}_{number}.hdf5" for number in range(len(inputs))]
    else:
        if name is not None:
            raise InputError("--output-name is for --format hdf5; TFRecords are named after the input files")
        names = [f"{path.name}{suffix}" for path in inputs]
    return [ShardTask(path, arguments.output_dir / name) for path, name in zip(inputs, names, strict=True)]


def _open_work(
    arguments: argparse.Namespace, tasks: list[ShardTask], settings: InstanceSettings, vocabulary: Vocabulary
) -> _Work:
    """Compare what is asked for with what the output folder holds, and note it there before anything is made."""
    folder = arguments.output_dir
    earlier = read_manifest(folder)
    may_replace = arguments.overwrite or earlier is not None
    check_outputs([task.output_file for task in tasks], input_dir=arguments.input_dir, overwrite=may_replace)
    files = {task.input_file.name: task.input_file for task in tasks}
    with show_progress(sum(path.stat().st_size for path in files.values()), "checksums") as progress:
        inputs = describe_files(files, arguments.workers, progress.add)
    manifest = Manifest(
        {
            **asdict(settings),
            "do_lower_case": arguments.do_lower_case,
            "format": arguments.format,
            "vocabulary_tokens": len(vocabulary.tokens),
            "vocabulary_sha256": sha256_of(arguments.vocab_file),
        },
        inputs,
    )
    if earlier is not None:
        if arguments.overwrite:
            _remove_outputs(earlier, folder)
        else:
            _check_finished(earlier, manifest, tasks)
            manifest.outputs = earlier.outputs
            _forget_damaged(manifest, folder, arguments.workers)
    names = {task.output_file.name for task in tasks}
    for leftover in folder.glob(".*.partial"):  # of runs that were killed: .NAME.PID.partial
        if leftover.name[1:].rsplit(".", 2)[0] in names:
            leftover.unlink()
    manifest.write(folder)
    return _Work(folder, manifest, [task for task in tasks if task.output_file.name not in manifest.outputs])


def _remove_outputs(manifest: Manifest, folder: Path) -> None:
    """Remove the files of an earlier task: the new one's may have other names, and the old ones must not stay."""
    for name in manifest.outputs:
        if Path(name).name == name:
            (folder / name).unlink(missing_ok=True)


def _check_finished(earlier: Manifest, manifest: Manifest, tasks: list[ShardTask]) -> None:
    """Raise `InputError` if a finished shard is not what its task would make now.

    A text whose shard is not finished may be another than before: one may have been mended, removed or added.
    """
    before, now = dict(earlier.settings), dict(manifest.settings)
    for name, output in earlier.outputs.items():
        text = str(output.get("input"))
        before[f"the text {text} of {name}"] = earlier.inputs.get(text)
    for task in tasks:
        if task.output_file.name in earlier.outputs:
            text = task.input_file.name
            now[f"the text {text} of {task.output_file.name}"] = manifest.inputs[text]
    check_same_task(tasks[0].output_file.parent, before, now)


def _forget_damaged(manifest: Manifest, folder: Path, workers: int) -> None:
    for name in manifest.damaged_or_missing(folder, workers):
        print(f"{name}: not as it was when it was finished, made again", file=sys.stderr)
        del manifest.outputs[name]


def _make(work: _Work, reports: Iterable[ShardReport]) -> None:
    """Run the task to its end, noting in the manifest what is finished and showing how far it is."""
    written = time.monotonic()
    total_bytes = sum(task.input_file.stat().st_size for task in work.missing)
    try:
        with show_progress(total_bytes, "records") as progress:
            for number, report in enumerate(reports, start=1):
                work.manifest.add(
                    report.task.output_file.name,
                    report.output,
                    input=report.task.input_file.name,
                    documents=report.documents,
                    records=report.records,
                    tokens=report.tokens,
                )
                if time.monotonic() - written > MANIFEST_SECONDS:
                    work.manifest.write(work.folder)
                    written = time.monotonic()
                _tell(report, f"{number}/{len(work.missing)}", progress)
    finally:
        work.manifest.write(work.folder)


def _tell(report: ShardReport, number: str, progress: Progress) -> None:
    progress.add(report.task.input_file.stat().st_size)
    name = report.task.output_file.name
    if not progress.is_terminal:
        progress.say(f"{number} {name}: {report.records} records, {report.tokens} tokens, {report.seconds:.1f} s")
    if report.documents == 1:
        progress.say(
            f"warning: {name}: its text is one article, so that next sentences labelled random are from "
            "the same article; put blank lines between articles, or join files"
        )
