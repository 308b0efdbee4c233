"""The records of a run, located and checked before any work starts, and their masking."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bert_large.config.model import ModelConfig
from bert_large.config.training import (
    MASKED_LM_PROB,
    PHASE_PREDICTIONS,
    PHASE_SEQ_LENGTHS,
    DataConfig,
    TrainConfig,
)
from bert_large.data.dataset import Dataset, check_training_data
from bert_large.data.folders import EVAL_FOLDERS, find_training_folder, list_subfolders
from bert_large.data.index_folder import choose_index_dir
from bert_large.data.masking import DynamicMasking
from bert_large.data.record import NO_PAIR, BadRecords, RecordLimits
from bert_large.data.windows import WindowSettings
from bert_large.distributed.collectives import Ranks
from bert_large.distributed.consistency import require_agreement
from bert_large.errors import DamageError, InputError
from bert_large.log import LOGGER
from bert_large.observe.progress import Progress
from bert_large.prepare.casing import resolve_casing
from bert_large.prepare.dataset import TextSettings, make_dataset
from bert_large.prepare.manifest import VOCABULARY, read_manifest
from bert_large.prepare.settings import PACKED, PAIRS, InstanceSettings
from bert_large.prepare.tokenizer_files import VOCAB_FILE
from bert_large.prepare.vocab import CONTINUATION, MOST_UNKNOWN, read_vocab
from bert_large.storage.integrity import facts_of
from bert_large.train.run_folder import DATA_INDEX

_UNKNOWN_SAMPLE = 1000
_START_SECONDS = 15.0
"""Data that are indexed within this time are indexed before training, on all cores, and not in the background."""


@dataclasses.dataclass(frozen=True)
class RunData:
    """The records of a run."""

    training: Dataset
    evaluation: Dataset | None
    masking: DynamicMasking | None
    """Draws new masks in every epoch. If None, the records' own masks are used."""


def resolve_text(
    data: DataConfig, vocab_file: Path | None, model: ModelConfig, *, from_checkpoint: bool, do_lower_case: bool | None,
    strip_accents: bool | None = None, extend_vocab: int = 0,
) -> TextSettings | None:  # fmt: skip
    """Return how to make the records of a run on text; None for a run on existing records.

    A checkpoint's weights belong to its own vocabulary: raises `InputError` if the checkpoint has none.
    """
    if data.text_dir is None:
        if extend_vocab:
            raise InputError(
                "--extend-vocab is given without TEXT_DIR, whose text the new tokens are trained on; for existing text "
                "files, make the vocabulary with `bert-large vocab --extend-vocab`, then the records with it"
            )
        return None
    if from_checkpoint and vocab_file is None:
        raise InputError(
            f"CHECKPOINT_DIR has no {VOCAB_FILE}, which is needed to make records of TEXT_DIR: set VOCAB_FILE "
            "(--vocab-file)"
        )
    length, has_pairs = data.max_seq_length, model.traits.has_next_sentence_head
    sequences = data.sequences or (PAIRS if has_pairs else PACKED)
    if sequences == PACKED and has_pairs:
        raise InputError(
            "--sequences is packed, and the model has a next-sentence head, which needs pairs; give --masked-lm-only, "
            "or --sequences pairs"
        )
    slots = {PHASE_SEQ_LENGTHS[phase]: predictions for phase, predictions in PHASE_PREDICTIONS.items()}
    return TextSettings(
        max_seq_length=length,
        max_predictions_per_seq=slots.get(length, max(1, round(length * MASKED_LM_PROB))),
        dupe_factor=1 if data.dynamic_masking else InstanceSettings.dupe_factor,
        vocab_file=vocab_file,
        vocab_size=model.vocab_size,
        do_lower_case=do_lower_case,
        strip_accents=strip_accents,
        sequences=sequences,
        extend_vocab=extend_vocab,
    )


def make_text_records(data: DataConfig, settings: TextSettings | None, ranks: Ranks) -> DataConfig:
    """Have rank 0 make the records of a run on text; return `data`, without evaluation if the text is too small."""
    if data.text_dir is None or settings is None:
        return data
    with ranks.failing_together():
        if ranks.is_main:
            with ranks.busy(f"making records from {data.text_dir}"):
                make_dataset(data.text_dir, data.dataset_dir, settings, LOGGER.info)
    with ranks.failing_together():
        if not data.dataset_dir.is_dir():
            raise InputError(
                f"{data.dataset_dir} does not exist on this host: with TEXT_DIR all hosts must share OUTPUT_DIR"
            )
    if data.eval_dir != data.dataset_dir / EVAL_FOLDERS[0] or data.eval_dir.is_dir():
        return data
    LOGGER.info("no evaluation: the text is too small to hold out articles for it")
    return dataclasses.replace(data, eval_dir=None)


def require_vocab(vocab_file: Path | None) -> Path:
    """Return the vocabulary for dynamic masking; raises `InputError` if there is none."""
    if vocab_file is None:
        raise InputError(
            "--dynamic-masking needs the vocabulary that the records were made with: set VOCAB_FILE (--vocab-file)"
        )
    return vocab_file


def resolve_masking(
    vocab_file: Path | None, data: DataConfig, train: TrainConfig, dataset: Dataset
) -> DynamicMasking | None:
    """Return the dynamic masking of a run, or None; raises `InputError` for another vocabulary than the records'."""
    if not data.dynamic_masking:
        return None
    vocabulary = read_vocab(require_vocab(vocab_file))
    shape, is_by_word = dataset.shape, data.masking_unit != DynamicMasking.unit
    masking = DynamicMasking(
        seed=train.seed,
        # The slots of the records are for the usual rate; batches have no slots.
        max_predictions=(
            shape.max_predictions
            if data.masking_rate == MASKED_LM_PROB
            else max(1, round(data.masking_rate * shape.max_seq_length))
        ),
        rate=data.masking_rate,
        unit=data.masking_unit,
        continues_word=(
            np.array([token.startswith(CONTINUATION) for token in vocabulary.tokens]) if is_by_word else None
        ),
        vocab_size=len(vocabulary.tokens),
        cls_id=vocabulary.cls_id,
        sep_id=vocabulary.sep_id,
        mask_id=vocabulary.mask_id,
    )
    masking.check(dataset.read(0, BadRecords(data.bad_records_allowed)))
    LOGGER.info(
        "dynamic masking: new masks in every epoch, at most %d per record, vocabulary of %s",
        masking.max_predictions,
        masking.description,
    )
    return masking


def open_dataset(
    folder: Path, index_dir: Path, model: ModelConfig, ranks: Ranks, max_bad_records: int = 0,
    windows: WindowSettings | None = None,
) -> Dataset:  # fmt: skip
    """Open a folder of shards and its first window: local rank 0 of each host indexes new shards, for all its ranks."""
    _require_same_folders(folder, index_dir, ranks)
    limits = RecordLimits(model.vocab_size, model.max_position_embeddings)
    progress = Progress(0, "shard", visible=ranks.is_main, listener=ranks.note)

    def on_shard(done: int, total: int) -> None:
        progress.within(f"checking the records of {folder}: {done} of {total} new shards")

    open_folder = partial(
        Dataset.open, folder, index_dir, limits=limits, max_bad_records=max_bad_records, windows=windows
    )
    with progress, ranks.failing_together():
        if ranks.local_rank == 0:
            open_folder(build=True, on_shard=on_shard)
    dataset = open_folder(build=False)
    if model.traits.has_next_sentence_head and _sequences_of(dataset, max_bad_records) == PACKED:
        raise InputError(
            f"the records of {folder} have no pairs of segments, and the model has a next-sentence head; give "
            "--masked-lm-only, or records of pairs"
        )
    return dataset


def _sequences_of(dataset: Dataset, max_bad_records: int) -> str:
    """Return which of `SEQUENCES` the records are, from the first of them."""
    record = dataset.read(0, BadRecords(max_bad_records))
    return PACKED if record.next_sentence_label == NO_PAIR else PAIRS


def open_data(
    data: DataConfig, train: TrainConfig, model: ModelConfig, vocab_file: Path | None, ranks: Ranks
) -> RunData:
    """Open the records of a run, and check that all ranks have the same."""
    training = open_training_data(data, train, model, ranks)
    evaluation = None
    if data.eval_dir is not None:
        evaluation = open_eval_data(data.eval_dir, data.index_dir, model, ranks, fallback=train.output_dir / DATA_INDEX)
    masking = resolve_masking(vocab_file, data, train, training)
    fingerprints = {"data": training.fingerprint(), "masks": masking.description if masking else "the records' own"}
    if evaluation is not None:
        fingerprints["evaluation data"] = evaluation.fingerprint()
    ranks.require_agreement(fingerprints)
    with ranks.failing_together():
        for dataset in filter(None, (training, evaluation)):
            check_vocabulary(dataset, vocab_file)
    return RunData(training, evaluation, masking)


def _choose_index_dir(folder: Path, index_dir: Path | None, fallback: Path, ranks: Ranks) -> Path:
    """Return where the first rank of this host keeps the index: another choice by the others would not find it."""
    with ranks.failing_together():
        own = str(choose_index_dir(folder, index_dir, fallback).resolve())
    gathered = ranks.gather([ranks.local_rank, own])
    return Path(gathered[_first_of_host(gathered, ranks)][1])


def _first_of_host(gathered: Sequence[Sequence[Any]], ranks: Ranks) -> int:
    """Return the number of the first rank of this host; `gathered` begins with the local rank of each rank.

    Ranks of a host are numbered consecutively, beginning with its local rank 0.
    """
    return max(rank for rank, (local, _) in enumerate(gathered[: ranks.rank + 1]) if local == 0 or rank == 0)


def _require_same_folders(folder: Path, index_dir: Path, ranks: Ranks) -> None:
    """Raise `InputError` unless all ranks of this host read the same folder and the same indexes.

    Only one of them indexes the shards. A rank with another folder, because its environment differs, would find no
    index for its own.
    """
    with ranks.failing_together():
        own = {"data folder": str(folder.resolve()), "index folder": str(index_dir.resolve())}
        gathered = ranks.gather([ranks.local_rank, own])
        chosen = sorted({_first_of_host(gathered, ranks), ranks.rank})
        require_agreement([gathered[rank][1] for rank in chosen], [ranks.names[rank] for rank in chosen])


def open_training_data(data: DataConfig, train: TrainConfig, model: ModelConfig, ranks: Ranks) -> Dataset:
    """Open the training records and check that they fit the phase and the model."""
    folder = find_training_folder(data.dataset_dir, data.max_seq_length)
    index_dir = _choose_index_dir(folder, data.index_dir, train.output_dir / DATA_INDEX, ranks)
    windows = WindowSettings(round(data.shuffle_window * 1e9), train.seed if data.shuffle else None, _START_SECONDS)
    dataset = open_dataset(folder, index_dir, model, ranks, data.bad_records_allowed, windows)
    check_training_data(dataset, max_seq_length=data.max_seq_length, phase=train.phase)
    found = _sequences_of(dataset, data.bad_records_allowed)
    if data.sequences not in (None, found):
        raise InputError(
            f"--sequences is {data.sequences}, but the records of {folder} hold {found}; make records with `bert-large "
            f"prepare --sequences {data.sequences}`, or give --sequences {found}"
        )
    bad = dataset.count_bad_records(data.bad_records_allowed).found
    for text in bad:
        LOGGER.info("bad record skipped: %s", text)
    if bad:
        LOGGER.info("%d bad records skipped: each is replaced by the next good record of its shard", len(bad))
    _log_dataset("training", dataset)
    return dataset


def check_vocabulary(dataset: Dataset, vocab_file: Path | None) -> None:
    """Raise `InputError` if records were made with another vocabulary than the model's.

    Records of `bert-large prepare` name theirs in their manifest; of others, only the range of ids is known.
    """
    folder = dataset.shards[0].path.parent
    try:
        manifest = read_manifest(folder)
    except DamageError:  # perhaps of another program; only `prepare` depends on it
        return
    made_with = manifest.settings.get(VOCABULARY) if manifest is not None else None
    if vocab_file is None or made_with is None:
        return
    vocabulary = read_vocab(vocab_file)
    if made_with not in (str(vocabulary.facts), str(facts_of(vocab_file))):
        raise InputError(
            f"the records in {folder} were made with another vocabulary ({made_with}) than that of the model, "
            f"{vocab_file} ({vocabulary.facts}): their ids mean other tokens. Make the records with the model's: "
            f"`bert-large prepare --vocab-file {vocab_file}`"
        )


def log_vocabulary(
    dataset: Dataset, vocab_file: Path | None, do_lower_case: bool | None, strip_accents: bool | None
) -> None:
    """Log how text is treated for the vocabulary, and a warning if many tokens of the records are [UNK].

    Many unknown tokens mean that the vocabulary does not fit the text. A sample of the records is read. Nothing is
    logged if the vocabulary is not known.
    """
    if vocab_file is None:
        return
    LOGGER.info("vocabulary %s: %s", vocab_file, resolve_casing(vocab_file, do_lower_case, strip_accents))
    unknown_id = read_vocab(vocab_file).unk_id
    numbers = range(0, len(dataset), max(1, len(dataset) // _UNKNOWN_SAMPLE))
    tokens = [dataset.read(number, BadRecords(len(dataset))).input_ids for number in numbers]
    share = sum(int((ids == unknown_id).sum()) for ids in tokens) / sum(map(len, tokens))
    if share > MOST_UNKNOWN:
        LOGGER.warning(
            "warning: %.1f%% of the tokens in %d records are [UNK] of %s, expected below %.0f%%: the records were made "
            "with another vocabulary, or with one that does not fit their text",
            100 * share, len(tokens), vocab_file, 100 * MOST_UNKNOWN,
        )  # fmt: skip


def open_eval_data(
    eval_dir: Path, index_dir: Path | None, model: ModelConfig, ranks: Ranks, *, fallback: Path
) -> Dataset:
    """Open held-out records of any sequence length that the model supports; none of them may be bad.

    `fallback` is the folder for their index if `index_dir` is None and no shared place can be written to.
    """
    dataset = open_dataset(eval_dir, _choose_index_dir(eval_dir, index_dir, fallback, ranks), model, ranks)
    _log_dataset("evaluation", dataset)
    return dataset


def _log_dataset(use: str, dataset: Dataset) -> None:
    tokens, folder = dataset.total_tokens(), dataset.paths[0].parent
    LOGGER.info(
        "%s data: %d records in %d shards of %s, %d real tokens, %.1f per record of %d slots",
        use, len(dataset), len(dataset.shards), folder, tokens, tokens / len(dataset), dataset.shape.max_seq_length,
    )  # fmt: skip
    if dataset.open_windows < dataset.window_count:
        LOGGER.info(
            "%s data: these are the first of %d windows. All %d shards have about %.3g million records, estimated from "
            "their sizes",
            use, dataset.window_count, len(dataset.paths), dataset.estimate_records() / 1e6,
        )  # fmt: skip
    LOGGER.info("%s data: index in %s", use, dataset.shards[0].stored_in)
    skipped = list_subfolders(folder)
    if skipped:
        LOGGER.info("%s data: folders are not read: %s", use, ", ".join(path.name for path in skipped))
