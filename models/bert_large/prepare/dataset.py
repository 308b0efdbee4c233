"""A folder of text to what a run trains and evaluates on, by the commands `corpus`, `vocab`, `prepare` and `pick`."""

from __future__ import annotations

import argparse
import contextlib
import io
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType

from bert_large.data.folders import EVAL_FOLDERS
from bert_large.errors import DamageError, InputError
from bert_large.prepare import command as prepare_command
from bert_large.prepare import corpus_command, pick_command, vocab_command
from bert_large.prepare.manifest import MadeOtherwiseError, Manifest, check_same_task, read_manifest
from bert_large.prepare.vocab import lowers_text
from bert_large.storage.atomic import sha256_of

EVAL_RECORDS = 10_000
"""Most records to evaluate on, as many as MLCommons'."""


@dataclass(frozen=True, kw_only=True)
class TextSettings:
    """How records are made of text."""

    max_seq_length: int
    max_predictions_per_seq: int
    dupe_factor: int
    """Copies of the text in the training records, each with pairs and masks of its own."""
    vocab_file: Path | None
    """None: a vocabulary is trained from the text."""
    vocab_size: int
    """Word pieces at most, where the vocabulary is trained."""
    do_lower_case: bool | None
    """None: as the vocabulary says, and lowered where it is trained."""

    @property
    def lowers(self) -> bool:
        """Whether letters are lowered and lose their accents."""
        if self.do_lower_case is not None:
            return self.do_lower_case
        return True if self.vocab_file is None else lowers_text(self.vocab_file)


def vocab_of(folder: Path, settings: TextSettings) -> Path:
    """Return the vocabulary that the records of `folder` are made with."""
    return folder / "vocab.txt" if settings.vocab_file is None else settings.vocab_file


def make_dataset(text_dir: Path, folder: Path, settings: TextSettings, tell: Callable[[str], object]) -> None:
    """Make records in `folder`, `seq_LENGTH/` to train on and `eval/` of held-out articles, of all text in `text_dir`.

    What was finished before is checked and kept. `tell` gets what each command says of its work. There is no `eval/`
    when the text is too small to hold any out. Raises `InputError` for text that no records can be made of, and when
    text or settings are not those that the folder's files were made of.
    """
    try:
        _make(text_dir, folder, settings, tell)
    except MadeOtherwiseError as error:
        raise InputError(
            f"the text in TEXT_DIR {text_dir}, or how records are made of it, is not what it was when those in "
            f"{folder} were begun: {error.differences}. Give it as it was, or another OUTPUT_DIR; if it is as it was, "
            f"remove {folder}: it is damaged, and made anew of the same text to the same records"
        ) from None
    except DamageError as error:
        raise DamageError(
            f"{error}. With TEXT_DIR there is no --overwrite: remove {folder}, which is made anew of the same text to "
            "the same records"
        ) from None
    except InputError as error:
        error.args = (f"TEXT_DIR {text_dir}: {error}",)
        raise


def _make(text_dir: Path, folder: Path, settings: TextSettings, tell: Callable[[str], object]) -> None:
    _note_settings(folder, settings)
    corpus, vocab_file = folder / "corpus", vocab_of(folder, settings)
    _run(corpus_command, tell, input_dir=text_dir, output_dir=corpus, phase1_fraction=1)
    text, held_out = corpus / "both", corpus / "eval"
    if settings.vocab_file is None and not vocab_file.exists():
        _run(
            vocab_command,
            tell,
            input_dir=text,
            output_file=vocab_file,
            vocab_size=settings.vocab_size,
            do_lower_case=settings.lowers,
        )
    alike = {
        "vocab_file": vocab_file,
        "max_seq_length": settings.max_seq_length,
        "max_predictions_per_seq": settings.max_predictions_per_seq,
        "do_lower_case": settings.lowers,
    }
    records = folder / f"seq_{settings.max_seq_length}"
    _run(prepare_command, tell, input_dir=text, output_dir=records, dupe_factor=settings.dupe_factor, **alike)
    if held_out.is_dir():
        every, picked = folder / "eval_all", folder / EVAL_FOLDERS[0] / "eval_records"
        _run(prepare_command, tell, input_dir=held_out, output_dir=every, **alike)
        if not picked.exists():
            _run(pick_command, tell, input_dir=every, output_file=picked, count=EVAL_RECORDS, allow_fewer=True)


def _note_settings(folder: Path, settings: TextSettings) -> None:
    """Refuse other settings than those noted in the folder; note them in a new one."""
    now = asdict(settings) | {"do_lower_case": settings.lowers}
    if settings.vocab_file is not None:
        now |= {"vocab_file": f"SHA-256 {sha256_of(settings.vocab_file)}", "vocab_size": None}
    folder.mkdir(parents=True, exist_ok=True)
    earlier = read_manifest(folder)
    if earlier is not None:
        check_same_task(folder, earlier.settings, now)
    else:
        Manifest(now, {}).write(folder)


def _run(command: ModuleType, tell: Callable[[str], object], **options: object) -> None:
    """Run a command; its options are named as its variables, and flags are True or False."""
    words = []
    for name, value in options.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        else:
            words.append(f"--{option}={value}")
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    with contextlib.redirect_stdout(io.StringIO()) as said:
        command.run(parser.parse_args(words))
    for line in said.getvalue().splitlines():
        tell(line)
