"""Raw text to text files of sentences for both phases, with articles held out for evaluation."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

from bert_large.data.folders import MANIFEST_NAME
from bert_large.errors import DamageError, InputError
from bert_large.observe.progress import Progress
from bert_large.prepare.articles import Reading, iterate_articles
from bert_large.prepare.compressed import COMPRESSED_SUFFIXES
from bert_large.prepare.duplicates import Duplicates, describe_method
from bert_large.prepare.manifest import Manifest, check_same_task, describe_files, read_manifest
from bert_large.prepare.sentence_workers import LONGEST_ARTICLE_BYTES, SentenceMaker, make_sentences
from bert_large.prepare.sentences import clean, split_sentences
from bert_large.prepare.settings import (
    DEFAULT_EVAL_ARTICLES,
    DEFAULT_EVAL_SHARE,
    DEFAULT_TEXT_FIELD,
    MIN_ARTICLES,
    SHARD_BYTES,
    TEXT_FORMS,
    CorpusSettings,
)
from bert_large.prepare.split import Dealer, HoldOut, Shard, plan_shards
from bert_large.prepare.text_files import Log, list_files, print_status, total_bytes
from bert_large.prepare.text_forms import resolve_forms
from bert_large.storage.atomic import explain_write_errors, remove_tree, sync_folder
from bert_large.storage.integrity import facts_of
from bert_large.storage.lock import LOCK_FILE, FolderLock
from bert_large.storage.output_folder import make_folder

_COMPRESSION_RATIO = 4
"""Bytes of text per compressed byte, to estimate the number of shards."""
_FEWEST_BYTES_FOR_WORKERS = 4 << 20
"""Less text is read before worker processes would have started."""
_HASHING_THREADS = 4


def make_corpus(
    input_dir: Path, output_dir: Path, settings: CorpusSettings, *, overwrite: bool = False, log: Log = print_status
) -> str:
    """Make a corpus in `output_dir`, or verify that it is there; return a summary.

    It has phase1/ and phase2/ (or both/), eval/ with the held-out articles, and `manifest.json`. All of it is made in a
    temporary folder beside `output_dir` and moved there when it is complete; until then nothing is changed. `log`
    receives warnings and progress. Raises `InputError` for files that are not text, for text that is too small for the
    settings, and, unless `overwrite`, if the folder holds a corpus of other text or settings.
    """
    start = time.perf_counter()
    files = _list_texts(input_dir, log)
    _check_folders(input_dir, output_dir)
    manifest, reading = _describe(input_dir, files, settings, log)
    target = output_dir.resolve()
    with _unfinished_folder(target, log) as unfinished:
        if _is_made(manifest, output_dir, overwrite=overwrite):
            return f"{output_dir} is complete: {len(manifest.outputs)} files of the same text, nothing to do"
        with explain_write_errors(output_dir):
            summary = _write_corpus(unfinished, files, manifest, _read(files, reading, settings, log), settings, log)
        (unfinished / LOCK_FILE).unlink()
        _replace_folder(target, unfinished)
    return f"wrote {summary} to {output_dir}, {time.perf_counter() - start:.1f} s"


def _list_texts(input_dir: Path, log: Log) -> list[Path]:
    """Return the files with text in a folder and the folders inside it."""
    files = list_files(input_dir, recursive=True, log=log)
    texts = [path for path in files if path.stat().st_size]
    if not texts:
        raise InputError(f"--input-dir {input_dir}: all {len(files)} files are empty")
    if len(texts) < len(files):
        empty = next(path for path in files if path not in texts)
        log(f"empty files left out: {len(files) - len(texts)}, such as {empty}")
    return texts


@contextlib.contextmanager
def _unfinished_folder(target: Path, log: Log) -> Iterator[Path]:
    """Yield an empty folder beside `target`, locked against other processes; delete it unless it has been renamed."""
    folder = target.with_name(f".{target.name}.partial")
    make_folder(target.parent)
    if folder.is_symlink():
        folder.unlink()
    with explain_write_errors(folder):
        folder.mkdir(exist_ok=True)
    with FolderLock(folder, "--output-dir's unfinished folder", log):
        try:
            for leftover in folder.iterdir():  # of a run that was killed
                if leftover.name != LOCK_FILE:
                    remove_tree(leftover)
            yield folder
        finally:
            remove_tree(folder, ignore_errors=True)


def _replace_folder(target: Path, new: Path) -> None:
    """Rename `new` to `target`; a corpus that is there, of which every file is known, is deleted after that."""
    old = target.with_name(f".{target.name}.replaced")
    remove_tree(old)
    if target.exists():
        target.rename(old)
    new.rename(target)
    sync_folder(target.parent)
    remove_tree(old)


def _check_folders(input_dir: Path, output_dir: Path) -> None:
    source, target = input_dir.resolve(), output_dir.resolve()
    if source == target or source in target.parents or target in source.parents:
        raise InputError(f"--output-dir {output_dir} and --input-dir {input_dir} contain one another; separate them")
    if output_dir.exists() and not output_dir.is_dir():
        raise InputError(f"--output-dir {output_dir} is a file; give the path of a folder")


def _describe(input_dir: Path, files: Sequence[Path], settings: CorpusSettings, log: Log) -> tuple[Manifest, Reading]:
    """Return the manifest of the corpus to make, still without outputs, and how to read its files."""
    form, encodings = resolve_forms(files, settings, lambda text: split_sentences(clean(text), settings.language))
    recorded = {
        "input_format": form,
        "text_field": settings.text_field or DEFAULT_TEXT_FIELD,
        "encoding": settings.encoding or "auto",
        "duplicates": describe_method(settings.duplicates),
        "language": settings.language,
        "segmenter": f"sentencex {version('sentencex')}",
        "shards": settings.shards or max(settings.fewest_shards, -(-_estimate_text(files) // SHARD_BYTES)),
        "phase1_fraction": settings.phase1_fraction,
        "eval_articles": "auto" if settings.eval_articles is None else settings.eval_articles,
    }
    if form == "mediawiki":
        recorded["wikitext"] = f"mwparserfromhell {version('mwparserfromhell')}"
    log(f"input format: {form}: {TEXT_FORMS[form]}; {len(files)} files")
    others = [path for path, encoding in encodings.items() if encoding != "utf-8"]
    if others and settings.encoding is None:
        log(f"files in other encodings than UTF-8: {len(others)}, such as {others[0]}: {encodings[others[0]]}")
    names = {path.relative_to(input_dir).as_posix(): path for path in files}
    manifest = Manifest(recorded, describe_files(names, _HASHING_THREADS, log))
    return manifest, Reading(form, settings.text_field or DEFAULT_TEXT_FIELD, encodings)


def _estimate_text(files: Sequence[Path]) -> int:
    """Return the bytes of text in files, which may be compressed."""
    compressed = [path for path in files if path.suffix in COMPRESSED_SUFFIXES]
    return total_bytes(files) + (_COMPRESSION_RATIO - 1) * total_bytes(compressed)


def _is_made(manifest: Manifest, folder: Path, *, overwrite: bool) -> bool:
    """Return whether `folder` has this corpus already; raise `InputError` if it has files that may not be replaced."""
    earlier = read_manifest(folder) if folder.is_dir() else None
    if earlier is None:
        if folder.is_dir() and any(folder.iterdir()):
            raise InputError(f"--output-dir {folder} has files in it that `corpus` did not make; choose another folder")
        return False
    known = {*earlier.outputs, MANIFEST_NAME}
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    if found - known:
        raise InputError(f"--output-dir {folder} holds {min(found - known)}, which `corpus` did not make; delete it")
    if overwrite:
        return False
    before, now = (
        {**made.settings, **{f"the text {name}": facts for name, facts in made.inputs.items()}}
        for made in (earlier, manifest)
    )
    check_same_task(folder, before, now)
    if damaged := earlier.damaged_or_missing(folder, _HASHING_THREADS):
        raise DamageError(
            f"{folder / damaged[0]} is damaged or missing; delete {folder} or give --overwrite to make all of it again"
        )
    manifest.outputs = earlier.outputs
    return True


def _write_corpus(
    folder: Path,
    files: Sequence[Path],
    manifest: Manifest,
    articles: Iterable[bytes],
    settings: CorpusSettings,
    log: Log,
) -> str:
    """Write the corpus of `articles` to `folder` and return a summary."""
    shards = plan_shards(folder, manifest.settings["shards"], settings.phase1_fraction)
    held_out_shard = Shard(folder / "eval" / "part-00000-of-00001", 1.0)
    for shard in (*shards, held_out_shard):
        shard.path.parent.mkdir(parents=True, exist_ok=True)
    wanted = settings.eval_articles
    hold_out = HoldOut(DEFAULT_EVAL_ARTICLES, DEFAULT_EVAL_SHARE) if wanted is None else HoldOut(wanted)
    dealer, evaluation = Dealer(shards), Dealer([held_out_shard])
    for article in articles:
        kept = hold_out.offer(article)
        if kept is not None:
            dealer.add(kept)
    taken = hold_out.taken()
    are_too_few = wanted is None and len(taken) < MIN_ARTICLES
    if are_too_few:
        log("warning: the text is too small to hold out articles by default: no eval/")
    for article in taken:
        (dealer if are_too_few else evaluation).add(article)
    dealer.flush()
    evaluation.flush()
    _check_shards(shards, held_out_shard, files)
    if held_out_shard.articles:
        shards.append(held_out_shard)
    else:
        held_out_shard.path.parent.rmdir()
    for shard in shards:
        name = shard.path.relative_to(folder).as_posix()
        manifest.add(name, facts_of(shard.path), articles=shard.articles, sentences=shard.sentences)
    manifest.write(folder)
    dropped = f", {hold_out.duplicates} copies of held-out ones discarded" if hold_out.duplicates else ""
    return (
        f"{sum(shard.articles for shard in shards)} articles with {sum(shard.sentences for shard in shards)} sentences "
        f"({held_out_shard.articles} articles held out{dropped})"
    )


def _read(files: Sequence[Path], reading: Reading, settings: CorpusSettings, log: Log) -> Iterator[bytes]:
    """Yield every article that has sentences, without duplicates, as UTF-8 lines with one sentence each."""
    duplicates = Duplicates()
    workers = settings.workers if _estimate_text(files) >= _FEWEST_BYTES_FOR_WORKERS else 1
    maker = SentenceMaker(reading.form, settings.language, settings.duplicates)
    with Progress(total_bytes(files), "B", description="articles", write=log) as progress:
        for article in make_sentences(_read_files(files, reading, progress), maker, workers):
            reading.cuts += article.is_cut
            if not duplicates.contains(article.fingerprints):
                yield article.text
    _report(reading, duplicates, log)


def _read_files(files: Sequence[Path], reading: Reading, progress: Progress) -> Iterator[list[str]]:
    for path in files:
        yield from iterate_articles(path, reading)
        progress.advance(path.stat().st_size)


def _report(reading: Reading, duplicates: Duplicates, log: Log) -> None:
    """Log what was left out or replaced."""
    if reading.replaced:
        path, first = next(iter(reading.replaced.items()))
        log(
            f"warning: places that could not be decoded, which are left out: "
            f"{sum(replaced.count for replaced in reading.replaced.values())} in {len(reading.replaced)} files, the "
            f"first in {path}, line {first.first_line}"
        )
    if reading.without_text:
        log(f"objects or rows whose field {reading.text_field!r} is empty, left out: {reading.without_text}")
    if reading.cuts:
        log(f"places where articles of more than {LONGEST_ARTICLE_BYTES >> 20} MiB were divided: {reading.cuts}")
    log(f"duplicate articles left out: {duplicates.exact} copies, {duplicates.near} near-duplicates")
    if duplicates.unrecorded:
        log(
            f"warning: no memory is left to recognize duplicates of {duplicates.unrecorded} articles; make several "
            "corpora, or remove duplicates before"
        )


def _check_shards(shards: Sequence[Shard], held_out: Shard, files: Sequence[Path]) -> None:
    """Raise `InputError` if a shard has too few articles to draw random next sentences from another one."""
    articles = sum(shard.articles for shard in shards)
    if not articles and not held_out.articles:
        more = f" and {len(files) - 1} more files" if len(files) > 1 else ""
        raise InputError(f"found no sentences in {files[0]}{more}; expected text")
    needed = MIN_ARTICLES * len(shards) + held_out.articles
    poorest = min(shards, key=lambda shard: shard.articles)
    if poorest.articles < MIN_ARTICLES:
        raise InputError(
            f"{articles + held_out.articles} articles are too few for {len(shards)} shards of at least {MIN_ARTICLES} "
            f"(a random next sentence comes from another article) and {held_out.articles} held out: "
            f"{poorest.path.parent.name}/{poorest.path.name} would have {poorest.articles}. Expected at least {needed} "
            "of similar length; lower --shards or --eval-articles, or give --phase1-fraction 1 for all text in both"
        )
