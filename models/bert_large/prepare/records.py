"""Text files of sentences to record files: what is missing is made, what is complete is verified and kept."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from bert_large.data.folders import NOT_SHARDS, is_shard_name
from bert_large.data.formats import FORMATS
from bert_large.errors import InputError
from bert_large.observe.progress import Progress
from bert_large.prepare.casing import Casing
from bert_large.prepare.compressed import plain_name
from bert_large.prepare.manifest import VOCABULARY, Manifest, check_same_task, describe_files, read_manifest
from bert_large.prepare.parts import join_manifests, manifest_folder, read_all_manifests, remove_part_folders
from bert_large.prepare.settings import PAIRS, InstanceSettings, Part, RecordFileSettings
from bert_large.prepare.shards import ShardReport, ShardTask, write_shards
from bert_large.prepare.text_files import Log, check_outputs, list_files, print_status, total_bytes
from bert_large.prepare.text_forms import require_sentences
from bert_large.prepare.vocab import MOST_UNKNOWN, UNK, read_vocab
from bert_large.storage.atomic import remove_partial_files
from bert_large.storage.output_folder import make_folder

MANIFEST_SECONDS = 5.0
"""Time between two writes of the manifest: a kill loses at most the shards of this time."""


def make_records(
    input_dir: Path,
    vocab_file: Path,
    output_dir: Path,
    settings: InstanceSettings,
    files: RecordFileSettings,
    *,
    casing: Casing,
    overwrite: bool = False,
    log: Log = print_status,
) -> str:
    """Make a record file of each text file in `input_dir`; return a summary.

    With `files.part`, make only the files of that part, and `manifest.json` if they complete the folder (see
    `prepare.parts`). Complete files of the same task are verified and kept. With `overwrite`, all files are made again;
    those of an earlier task are deleted when the new ones are complete. `log` receives warnings and progress. Raises
    `InputError` for wrong inputs, before anything is changed, and for files of another task.
    """
    start = time.perf_counter()
    part = None if files.part is None else Part.parse(files.part)
    if part is not None and overwrite:
        raise InputError(f"--part {part} with --overwrite: parts cannot replace files; give an empty --output-dir")
    all_tasks = _plan(list_files(input_dir, recursive=False, log=log), output_dir, files)
    tasks = all_tasks if part is None else all_tasks[part.number - 1 :: part.count]
    vocabulary = read_vocab(vocab_file)
    check_outputs([task.output_file for task in all_tasks], input_dir=input_dir, overwrite=True)
    for task in tasks:
        require_sentences(task.input_file)
    log(f"text: {casing}")
    make_folder(output_dir)
    recorded = {
        **asdict(settings),
        **casing.letters,
        "format": files.format,
        "vocabulary_tokens": len(vocabulary.tokens),
        VOCABULARY: str(vocabulary.facts),
    }
    with manifest_folder(output_dir, part, log) as folder:
        inputs = describe_files({task.input_file.name: task.input_file for task in tasks}, files.workers, log)
        manifest = Manifest(recorded, inputs)
        missing = _open_work(manifest, tasks, folder, files.workers, overwrite=overwrite, log=log)
        reports = write_shards(missing, vocabulary, settings, casing, workers=files.workers, output_format=files.format)
        _run(manifest, folder, missing, reports, log, warns_of_single=settings.sequences == PAIRS)
        is_complete = part is None or join_manifests(output_dir, all_tasks, log)
    if is_complete:
        remove_part_folders(output_dir)
    _warn_of_unknown(manifest, log)
    made = [manifest.outputs[task.output_file.name] for task in missing]
    records, tokens = sum(output["records"] for output in made), sum(output["tokens"] for output in made)
    kept = f" ({len(tasks) - len(made)} were finished before)" if len(made) < len(tasks) else ""
    return (
        f"wrote {records} records with {tokens} tokens to {len(made)} files in {output_dir}{kept}, "
        f"{time.perf_counter() - start:.1f} s"
    )


def _plan(inputs: Sequence[Path], output_dir: Path, files: RecordFileSettings) -> list[ShardTask]:
    """Return the text files with the record files to make of them."""
    suffixes = FORMATS[files.format].suffixes
    if suffixes:
        names = [f"{files.output_name or 'corpus_training'}_{number}{suffixes[0]}" for number in range(len(inputs))]
    else:
        names = [f"{_without_text_suffix(plain_name(path))}{files.output_suffix}" for path in inputs]
    name, count = Counter(names).most_common(1)[0]
    if count > 1:
        first, second, *_ = (path for path, other in zip(inputs, names, strict=True) if other == name)
        raise InputError(f"{first} and {second} would both be made into {name}; delete or rename one of them")
    for path, name in zip(inputs, names, strict=True):
        if not is_shard_name(name, files.format):
            option = "--output-name" if suffixes else "--output-suffix, or rename the text"
            raise InputError(
                f"{path} would be made into {name}, which training would not read as a {files.format} file; change "
                f"{option}"
            )
    return [ShardTask(path, output_dir / name) for path, name in zip(inputs, names, strict=True)]


def _without_text_suffix(name: str) -> str:
    """Return a name that the reader of shards does not skip as a note beside them: `a` for `a.txt`."""
    stem, suffix = Path(name).stem, Path(name).suffix
    return stem if suffix in NOT_SHARDS else name


def _open_work(
    manifest: Manifest, tasks: list[ShardTask], folder: Path, workers: int, *, overwrite: bool, log: Log
) -> list[ShardTask]:
    """Compare the tasks with the files made before, write the manifest to `folder`, and return the shards to make.

    `folder` is the output folder, or that of a part's manifest.
    """
    outputs = [task.output_file for task in tasks]
    if not outputs:  # there are more parts than files
        manifest.write(folder)
        return []
    output_dir = outputs[0].parent
    earlier = read_all_manifests(output_dir) if not overwrite else read_manifest(output_dir)
    check_outputs(outputs, input_dir=tasks[0].input_file.parent, overwrite=overwrite or earlier is not None)
    names = {path.name for path in outputs}
    if earlier is not None:
        if not overwrite:
            if folder != output_dir:
                earlier.outputs = {name: facts for name, facts in earlier.outputs.items() if name in names}
            _check_finished(earlier, manifest, tasks)
            manifest.outputs = earlier.outputs
            for name in manifest.damaged_or_missing(output_dir, workers):
                log(f"{name} is damaged or missing and is made again")
                del manifest.outputs[name]
        former = [*earlier.replaced, *(earlier.outputs if overwrite else ())]
        manifest.replaced = sorted({name for name in former if Path(name).name == name} - names)
    if folder == output_dir:
        remove_partial_files(output_dir)
    else:  # other parts are writing there
        manifest.replaced = []
    manifest.write(folder)
    return [task for task in tasks if task.output_file.name not in manifest.outputs]


def _check_finished(earlier: Manifest, manifest: Manifest, tasks: list[ShardTask]) -> None:
    """Raise `InputError` if a complete shard differs from what its task would make now.

    Texts whose shard is not complete may have changed: some may have been fixed, removed or added.
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


def _run(
    manifest: Manifest, folder: Path, missing: Sequence[ShardTask], reports: Iterable[ShardReport], log: Log,
    *, warns_of_single: bool,
) -> None:  # fmt: skip
    """Make the shards and record in the manifest which are complete; then delete the files of an earlier task.

    With `warns_of_single`, log a warning for each text of a single article.
    """
    written = time.monotonic()
    try:
        with Progress(total_bytes(task.input_file for task in missing), "B", description="text", write=log) as progress:
            for number, report in enumerate(reports, start=1):
                name = report.task.output_file.name
                manifest.add(
                    name,
                    report.output,
                    input=report.task.input_file.name,
                    documents=report.documents,
                    records=report.records,
                    tokens=report.tokens,
                    text_tokens=report.text_tokens,
                    unknown_tokens=report.unknown_tokens,
                )
                if time.monotonic() - written > MANIFEST_SECONDS:
                    manifest.write(folder)
                    written = time.monotonic()
                progress.advance(report.task.input_file.stat().st_size)
                if not progress.on_terminal:
                    counts = f"{report.records} records, {report.tokens} tokens, {report.seconds:.1f} s"
                    progress.line(f"{number}/{len(missing)} {name}: {counts}")
                if report.documents == 1 and warns_of_single:
                    progress.line(
                        f"warning: {name}: its text is a single article, so that sentences labeled as random come from "
                        "the same article; put blank lines between articles, or join files"
                    )
        for name in manifest.replaced:
            (folder / name).unlink(missing_ok=True)
        manifest.replaced = []
    finally:
        manifest.write(folder)


def _warn_of_unknown(manifest: Manifest, log: Log) -> None:
    """Log a warning if the vocabulary does not fit the text."""
    tokens = sum(output["text_tokens"] for output in manifest.outputs.values())
    unknown = sum(output["unknown_tokens"] for output in manifest.outputs.values())
    if unknown > MOST_UNKNOWN * tokens:
        log(
            f"warning: {unknown / tokens:.1%} of the text's tokens are {UNK}, expected below {MOST_UNKNOWN:.0%}: the "
            "vocabulary does not fit the text. Check --vocab-file, --do-lower-case and --strip-accents, or train a "
            "vocabulary with `bert-large vocab`"
        )
