"""A folder of text to the records that a run trains and evaluates on."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from bert_large.data.folders import EVAL_FOLDERS
from bert_large.errors import DamageError, InputError
from bert_large.prepare.casing import Casing, resolve_casing
from bert_large.prepare.corpus import make_corpus
from bert_large.prepare.extended_vocab import make_extended_vocabulary
from bert_large.prepare.manifest import MadeOtherwiseError, Manifest, check_same_task, read_manifest
from bert_large.prepare.pick import pick_records
from bert_large.prepare.records import make_records
from bert_large.prepare.settings import PAIRS, CorpusSettings, InstanceSettings, RecordFileSettings, VocabularySettings
from bert_large.prepare.text_files import Log
from bert_large.prepare.tokenizer_files import VOCAB_FILE
from bert_large.prepare.vocab import make_vocabulary
from bert_large.storage.integrity import facts_of

EVAL_RECORDS = 10_000
"""Largest number of records to evaluate on, equal to MLCommons'."""


@dataclass(frozen=True, kw_only=True)
class TextSettings:
    """How records are made of text."""

    max_seq_length: int
    max_predictions_per_seq: int
    dupe_factor: int
    """Passes over the training text, each with different pairs and masks."""
    vocab_file: Path | None
    """If None, a vocabulary is trained on the text."""
    vocab_size: int
    """Largest number of tokens of a trained vocabulary."""
    do_lower_case: bool | None
    """If None, as the vocabulary requires; true for a trained one."""
    strip_accents: bool | None = None
    """If None, as the vocabulary requires, or as `do_lower_case`."""
    sequences: str = PAIRS
    """One of `SEQUENCES`."""
    extend_vocab: int = 0
    """Tokens of the text to add to `vocab_file`."""

    @property
    def casing(self) -> Casing:
        """How letters are treated."""
        if self.vocab_file is not None:
            return resolve_casing(self.vocab_file, self.do_lower_case, self.strip_accents)
        lower = self.do_lower_case is not False
        return Casing(lower, lower if self.strip_accents is None else self.strip_accents)


def vocab_of(folder: Path, settings: TextSettings) -> Path:
    """Return the vocabulary that the records of `folder` are made with."""
    return settings.vocab_file if settings.vocab_file and not settings.extend_vocab else folder / VOCAB_FILE


def make_dataset(text_dir: Path, folder: Path, settings: TextSettings, log: Log) -> None:
    """Make records of all text in `text_dir`: in `folder`, `seq_LENGTH/` to train on and `eval/` of held-out articles.

    Complete files are verified and kept. `log` receives the summary of each step. If the text is too small to hold out
    articles, there is no `eval/`. Raises `InputError` for text that no records can be made of, and if the text or the
    settings are not those of the files in the folder.
    """
    try:
        _make(text_dir, folder, settings, log)
    except MadeOtherwiseError as error:
        raise InputError(
            f"the records in {folder} were made differently from TEXT_DIR {text_dir} with these settings: "
            f"{error.differences}. Restore the text and the settings, choose another OUTPUT_DIR, or delete {folder}: "
            "the same text and settings give the same records again"
        ) from None
    except DamageError as error:
        raise DamageError(
            f"{error}. With TEXT_DIR, there is no --overwrite: delete {folder}; the same text and settings give the "
            "same records again"
        ) from None
    except InputError as error:
        text = str(error).removeprefix(f"--input-dir {text_dir}: ")
        if " --" in text:
            text += (
                ". With TEXT_DIR, these options do not exist: make the records with quickstart/prepare_dataset.sh, or "
                "with `bert-large corpus`, `vocab` and `prepare`, and give them as DATASET_DIR"
            )
        error.args = (f"TEXT_DIR {text_dir}: {text}",)
        raise


def _make(text_dir: Path, folder: Path, settings: TextSettings, log: Log) -> None:
    now = _recorded(settings)
    earlier = read_manifest(folder)
    if earlier is not None:
        check_same_task(folder, earlier.settings, now)
    corpus, vocab_file, casing = folder / "corpus", vocab_of(folder, settings), settings.casing
    log(make_corpus(text_dir, corpus, CorpusSettings(phase1_fraction=1), log=log))
    if earlier is None:  # after the corpus: settings of a start that failed on the text bind nobody
        Manifest(now, {}).write(folder)
    text, held_out = corpus / "both", corpus / "eval"
    if settings.vocab_file is None and not vocab_file.exists():
        vocabulary_settings = VocabularySettings(vocab_size=settings.vocab_size, **casing.letters)
        log(make_vocabulary(text, vocab_file, vocabulary_settings, log=log))
    elif settings.vocab_file is not None and not vocab_file.exists():
        added = settings.extend_vocab
        log(
            make_extended_vocabulary(
                text, settings.vocab_file, vocab_file, added, casing=casing, overwrite=True, log=log
            )
        )

    def make(input_dir: Path, name: str, dupe_factor: int) -> Path:
        instances = InstanceSettings(
            max_seq_length=settings.max_seq_length,
            max_predictions_per_seq=settings.max_predictions_per_seq,
            dupe_factor=dupe_factor,
            sequences=settings.sequences,
        )
        target = folder / name
        log(make_records(input_dir, vocab_file, target, instances, RecordFileSettings(), casing=casing, log=log))
        return target

    make(text, f"seq_{settings.max_seq_length}", settings.dupe_factor)
    if held_out.is_dir():
        every = make(held_out, "eval_all", InstanceSettings.dupe_factor)
        picked = folder / EVAL_FOLDERS[0] / "eval_records"
        if not picked.exists():
            log(pick_records(every, picked, EVAL_RECORDS, allow_fewer=True))


def _recorded(settings: TextSettings) -> dict[str, object]:
    """Return the settings as the folder's manifest records them: with the vocabulary's content, not its path."""
    recorded = asdict(settings) | settings.casing.letters
    if settings.vocab_file is not None:
        recorded |= {"vocab_file": str(facts_of(settings.vocab_file)), "vocab_size": None}
    return recorded
