"""Checks of the data folder: which phases it has records for, and whether they can be read."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from bert_large.config.training import PHASE_SEQ_LENGTHS
from bert_large.data.folders import find_eval_folder, find_training_folder, list_shards
from bert_large.data.formats import format_of
from bert_large.data.record import BadRecordError, RecordShape
from bert_large.doctor.finding import OK, PROBLEM, WARNING, Finding
from bert_large.errors import DataError, InputError

_TOPIC = "data"


def check_data(dataset_dir: Path, phase: int | None) -> list[Finding]:
    """Tell what `dataset_dir` holds for a phase, or for both; one of both is enough then."""
    phases = list(PHASE_SEQ_LENGTHS) if phase is None else [phase]
    found = {number: _check_phase(dataset_dir, number) for number in phases}
    usable = [number for number, finding in found.items() if finding.level == OK]
    findings = [
        Finding(WARNING, its.topic, its.found, its.remedy) if usable and its.level == PROBLEM else its
        for its in found.values()
    ]
    return [*findings, _check_evaluation(dataset_dir)] if usable else findings


def _check_phase(dataset_dir: Path, phase: int) -> Finding:
    topic, length = f"{_TOPIC}, phase {phase}", PHASE_SEQ_LENGTHS[phase]
    try:
        folder = find_training_folder(dataset_dir, length)
        shards, shape = _look_at(folder)
    except (InputError, OSError) as error:
        return Finding(PROBLEM, topic, str(error), "name the folder of records in DATASET_DIR, or make it: prepare")
    if shape.max_seq_length != length:
        return Finding(
            PROBLEM, topic, f"{folder}: records of {shape.max_seq_length} token slots, expected {length}",
            "name other records in DATASET_DIR, or train the other phase",
        )  # fmt: skip
    return Finding(OK, topic, _describe(folder, shards, shape))


def _check_evaluation(dataset_dir: Path) -> Finding:
    topic = f"{_TOPIC}, evaluation"
    try:
        folder = find_eval_folder(dataset_dir)
        if folder is None:
            return Finding(OK, topic, f"none in {dataset_dir}; EVAL_DIR can name a folder")
        shards, shape = _look_at(folder)
    except (InputError, OSError) as error:
        return Finding(PROBLEM, topic, str(error), "remove the folder, or put its records there")
    return Finding(OK, topic, _describe(folder, shards, shape))


def _look_at(folder: Path) -> tuple[Sequence[Path], RecordShape]:
    """Return the shards, all of which may be read, and the shape of the first's first record."""
    shards = list_shards(folder)
    closed = [path for path in shards if not os.access(path, os.R_OK)]
    if closed:
        raise DataError(f"{closed[0]} and {len(closed) - 1} others of {len(shards)} shards may not be read")
    first = shards[0]
    with contextlib.closing(format_of(first).open(first)) as shard:
        for _, stored in shard.scan():
            if isinstance(stored, BadRecordError):
                raise stored
            return shards, stored.shape
    raise DataError(f"{first} is empty")


def _describe(folder: Path, shards: Sequence[Path], shape: RecordShape) -> str:
    return (
        f"{folder}: {len(shards)} shards, records of {shape.max_seq_length} tokens and {shape.max_predictions} "
        "predictions; the first one is whole"
    )
