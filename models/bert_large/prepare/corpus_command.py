"""`bert-large corpus`: raw text to shards of sentences for both phases, with articles held out for evaluation."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from bert_large.config.options import add_settings, setting
from bert_large.errors import DamageError, InputError
from bert_large.prepare.articles import FORMATS, detect_format, iterate_articles, list_text_files
from bert_large.prepare.files import MANIFEST_NAME
from bert_large.prepare.manifest import FileFacts, Manifest, check_same_task, describe_files, read_manifest
from bert_large.prepare.progress import show_progress
from bert_large.prepare.sentences import clean, split_sentences
from bert_large.prepare.split import Dealer, HoldOut, Shard, plan_shards
from bert_large.storage.atomic import explain_write_errors, remove_tree, sync_folder
from bert_large.storage.lock import LOCK_FILE, FolderLock

SHARD_BYTES = 32 << 20
DEFAULT_EVAL_ARTICLES = 10_000
DEFAULT_EVAL_SHARE = 0.02
MIN_ARTICLES = 2  # a random next sentence needs another document
_HASHING_THREADS = 4
_REPORTS = 10


@dataclass(frozen=True, kw_only=True)
class CorpusOptions:
    """Settings of `bert-large corpus`."""

    input_dir: Path = setting(text="folder of UTF-8 text; subfolders are read too", path="input")
    output_dir: Path = setting(
        text="folder to make: phase1/ and phase2/ (or both/), eval/ and manifest.json", variable=""
    )
    input_format: str = setting(
        "auto",
        "; ".join(f"{name}: {meaning}" for name, meaning in FORMATS.items()),
        choices=("auto", *FORMATS),
        default_text="detected",
    )
    language: str = setting(
        "en",
        "language whose rules end a sentence, ISO 639; unknown ones are split as English",
        variable="TEXT_LANGUAGE",
    )
    shards: int | None = setting(
        None,
        "files of text for both phases",
        within="[1, 1000000]",
        default_text=f"one per {SHARD_BYTES >> 20} MiB read",
    )
    phase1_fraction: float = setting(
        0.9,
        "share of the text for phase 1, the rest is for phase 2; 1: both phases train on all of it",
        within="(0, 1]",
    )
    eval_articles: int | None = setting(
        None,
        "articles to hold out, chosen by a hash of their text",
        within="[0, inf)",
        default_text=f"one in {round(1 / DEFAULT_EVAL_SHARE)}, at most {DEFAULT_EVAL_ARTICLES}",
    )
    overwrite: bool = setting(False, "replace a corpus that this command made", variable="")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `corpus`."""
    add_settings(parser, CorpusOptions)


def run(arguments: argparse.Namespace) -> int:
    """Make the corpus, or find it made, and say what is in it."""
    start = time.perf_counter()
    _check_settings(arguments)
    files = list_text_files(arguments.input_dir)
    _check_folders(arguments.input_dir, arguments.output_dir)
    manifest = _describe(arguments, files)
    target = arguments.output_dir.resolve()
    with _unfinished_folder(target) as unfinished:
        if _is_made(manifest, arguments.output_dir, overwrite=arguments.overwrite):
            print(f"{arguments.output_dir} is complete: {len(manifest.outputs)} files of the same text, nothing to do")
            return 0
        with explain_write_errors(arguments.output_dir):
            summary = _make(unfinished, files, manifest, arguments)
        if arguments.overwrite:
            _remove(target)
        (unfinished / LOCK_FILE).unlink()
        unfinished.replace(target)
        sync_folder(target.parent)
    print(f"wrote {summary} to {arguments.output_dir}, {time.perf_counter() - start:.1f} s")
    return 0


@contextlib.contextmanager
def _unfinished_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside `target`, locked, that is to take its place; it is deleted if it does not.

    Raises `InputError` where another process has it.
    """
    folder = target.with_name(f".{target.name}.partial")
    if folder.is_symlink():
        folder.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    with FolderLock(folder, "--output-dir's unfinished folder", lambda text: print(text, file=sys.stderr)):
        try:
            for leftover in folder.iterdir():  # of a run that was killed
                if leftover.name != LOCK_FILE:
                    remove_tree(leftover)
            yield folder
        finally:
            remove_tree(folder, ignore_errors=True)


def _check_settings(arguments: argparse.Namespace) -> None:
    fraction, shards, held_out = arguments.phase1_fraction, arguments.shards, arguments.eval_articles
    fewest = 1 if fraction == 1 else 2
    checks = (
        ("phase1-fraction", fraction, 0 < fraction <= 1, "above 0, at most 1"),
        ("shards", shards, shards is None or shards >= fewest, f"at least {fewest}"),
        ("eval-articles", held_out, held_out is None or held_out == 0 or held_out >= MIN_ARTICLES, "0, or 2 and more"),
    )
    problems = [
        f"--{name} is {value}, expected {expected}" for name, value, is_right, expected in checks if not is_right
    ]
    if problems:
        raise InputError("; ".join(problems))


def _check_folders(input_dir: Path, output_dir: Path) -> None:
    source, target = input_dir.resolve(), output_dir.resolve()
    if source == target or source in target.parents or target in source.parents:
        raise InputError(f"--output-dir {output_dir} and --input-dir {input_dir} hold one another; keep them apart")
    if output_dir.exists() and not output_dir.is_dir():
        raise InputError(f"--output-dir {output_dir} is a file; name a folder")


def _describe(arguments: argparse.Namespace, files: Sequence[Path]) -> Manifest:
    """Return the manifest of the corpus to make, without outputs yet."""
    input_format = arguments.input_format
    if input_format == "auto":
        input_format = detect_format(files[0], lambda text: split_sentences(clean(text), arguments.language))
    total_bytes = sum(path.stat().st_size for path in files)
    fewest = 1 if arguments.phase1_fraction == 1 else 2
    settings = {
        "input_format": input_format,
        "language": arguments.language,
        "segmenter": f"sentencex {version('sentencex')}",
        "shards": arguments.shards or max(fewest, -(-total_bytes // SHARD_BYTES)),
        "phase1_fraction": arguments.phase1_fraction,
        "eval_articles": "auto" if arguments.eval_articles is None else arguments.eval_articles,
    }
    names = {path.relative_to(arguments.input_dir).as_posix(): path for path in files}
    with show_progress(total_bytes, "checksums") as progress:
        progress.say(f"input format: {input_format}: {FORMATS[input_format]}; {len(files)} files")
        return Manifest(settings, describe_files(names, _HASHING_THREADS, progress.add))


def _is_made(manifest: Manifest, folder: Path, *, overwrite: bool) -> bool:
    """Tell if `folder` has this corpus already; raise `InputError` if it has anything else that may not be replaced."""
    earlier = read_manifest(folder) if folder.is_dir() else None
    if earlier is None:
        if folder.is_dir() and any(folder.iterdir()):
            raise InputError(f"--output-dir {folder} has files in it that `corpus` did not make; choose another folder")
        return False
    known = {*earlier.outputs, MANIFEST_NAME}
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    if found - known:
        raise InputError(f"--output-dir {folder} holds {min(found - known)}, which `corpus` did not make; move it away")
    if overwrite:
        return False
    before, now = ({**made.settings, **_named(made.inputs)} for made in (earlier, manifest))
    check_same_task(folder, before, now)
    damaged = earlier.damaged_or_missing(folder, _HASHING_THREADS)
    if damaged:
        raise DamageError(
            f"{folder / damaged[0]}: not as it was when it was made; remove {folder}, or give --overwrite, to make "
            "all anew"
        )
    manifest.outputs = earlier.outputs
    return True


def _named(inputs: dict[str, FileFacts]) -> dict[str, FileFacts]:
    return {f"the text {name}": facts for name, facts in inputs.items()}


def _make(folder: Path, files: Sequence[Path], manifest: Manifest, arguments: argparse.Namespace) -> str:
    """Write the corpus to `folder` and return a sentence about it."""
    shards = plan_shards(folder, manifest.settings["shards"], arguments.phase1_fraction)
    held_out_shard = Shard(folder / "eval" / "part-00000-of-00001", 1.0)
    for shard in (*shards, held_out_shard):
        shard.path.parent.mkdir(parents=True, exist_ok=True)
    is_automatic = arguments.eval_articles is None
    count, share = (DEFAULT_EVAL_ARTICLES, DEFAULT_EVAL_SHARE) if is_automatic else (arguments.eval_articles, 1.0)
    hold_out, dealer = HoldOut(count, share), Dealer(shards)
    for article in _read(files, manifest.settings["input_format"], arguments.language):
        kept = hold_out.offer(article)
        if kept is not None:
            dealer.add(kept)
    evaluation = Dealer([held_out_shard])
    taken = hold_out.taken()
    too_few_to_evaluate = is_automatic and len(taken) < MIN_ARTICLES
    if too_few_to_evaluate:
        print("warning: the text is too small to hold articles out by default: no eval/", file=sys.stderr)
    for article in taken:
        (dealer if too_few_to_evaluate else evaluation).add(article)
    dealer.flush()
    evaluation.flush()
    _check_shards(shards, held_out_shard, arguments)
    if held_out_shard.articles:
        shards.append(held_out_shard)
    else:
        held_out_shard.path.parent.rmdir()
    for shard in shards:
        name = shard.path.relative_to(folder).as_posix()
        manifest.add(name, FileFacts.of(shard.path), articles=shard.articles, sentences=shard.sentences)
    manifest.write(folder)
    dropped = f", {hold_out.duplicates} copies of held-out ones dropped" if hold_out.duplicates else ""
    return (
        f"{sum(shard.articles for shard in shards)} articles with {sum(shard.sentences for shard in shards)} sentences "
        f"({held_out_shard.articles} articles held out{dropped})"
    )


def _read(files: Sequence[Path], input_format: str, language: str) -> Iterator[bytes]:
    """Yield every article that has sentences as UTF-8 lines, a sentence each."""
    total_bytes = sum(path.stat().st_size for path in files)
    done_bytes, reports = 0, 0
    with show_progress(total_bytes, "articles") as progress:
        for path in files:
            for lines in iterate_articles(path, input_format):
                sentences = lines if input_format == "sentences" else _sentences(lines, language)
                if sentences:
                    yield "".join(f"{sentence}\n" for sentence in sentences).encode()
            size = path.stat().st_size
            progress.add(size)
            done_bytes += size
            if not progress.is_terminal and done_bytes * _REPORTS // total_bytes > reports:
                reports = done_bytes * _REPORTS // total_bytes
                progress.say(f"read {done_bytes} of {total_bytes} bytes")


def _sentences(lines: Sequence[str], language: str) -> list[str]:
    return [sentence for line in lines for sentence in split_sentences(clean(line), language)]


def _check_shards(shards: Sequence[Shard], held_out: Shard, arguments: argparse.Namespace) -> None:
    """Raise `InputError` if a shard has too few articles for next sentences from another one."""
    articles = sum(shard.articles for shard in shards)
    if not articles and not held_out.articles:
        raise InputError(f"--input-dir {arguments.input_dir}: found no sentences in its files")
    needed = MIN_ARTICLES * len(shards) + held_out.articles
    poorest = min(shards, key=lambda shard: shard.articles)
    if poorest.articles < MIN_ARTICLES:
        raise InputError(
            f"{articles + held_out.articles} articles are too few for {len(shards)} shards of at least {MIN_ARTICLES} "
            f"(a random next sentence comes from another article) and {held_out.articles} held out: "
            f"{poorest.path.parent.name}/{poorest.path.name} would have {poorest.articles}. Expected {needed} and more "
            "of even length; lower --shards or --eval-articles, or give --phase1-fraction 1 to use all in both phases"
        )


def _remove(folder: Path) -> None:
    """Remove a corpus that this command made; everything in the folder is known to be its."""
    earlier = read_manifest(folder) if folder.is_dir() else None
    if earlier is not None:
        (folder / MANIFEST_NAME).unlink()
        remove_tree(folder)
