"""Checks of the data folder: the phases that it has records for, and whether they can be read."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from pathlib import Path

from bert_large.config.training import PHASE_SEQ_LENGTHS
from bert_large.data.folders import find_eval_folder, find_training_folder, list_shards
from bert_large.data.formats import format_of
from bert_large.data.record import BadRecordError, RecordShape
from bert_large.doctor.finding import OK, PROBLEM, WARNING, Finding
from bert_large.errors import DataError, InputError


def check_data(dataset_dir: Path, phase: int | None) -> list[Finding]:
    """Check `dataset_dir` for records of a phase, or of both phases, where one of them is enough."""
    phases = list(PHASE_SEQ_LENGTHS) if phase is None else [phase]
    findings = [_check_phase(dataset_dir, number) for number in phases]
    if all(finding.level == PROBLEM for finding in findings):
        return findings
    findings = [dataclasses.replace(found, level=WARNING) if found.level == PROBLEM else found for found in findings]
    return [*findings, _check_evaluation(dataset_dir)]


def _check_phase(dataset_dir: Path, phase: int) -> Finding:
    topic, length = f"data, phase {phase}", PHASE_SEQ_LENGTHS[phase]
    try:
        found, shape = _read_first(find_training_folder(dataset_dir, length))
    except (InputError, OSError) as error:
        remedy = "set DATASET_DIR to the folder of records, or make records with bert-large prepare"
        return Finding(PROBLEM, topic, str(error), remedy)
    if shape.max_seq_length != length:
        remedy = "set DATASET_DIR to other records, or train the other phase"
        return Finding(PROBLEM, topic, f"{found}; expected {length} token slots", remedy)
    return Finding(OK, topic, found)


def _check_evaluation(dataset_dir: Path) -> Finding:
    topic = "data, evaluation"
    try:
        folder = find_eval_folder(dataset_dir)
        if folder is None:
            return Finding(OK, topic, f"none in {dataset_dir}; EVAL_DIR can name a folder")
        return Finding(OK, topic, _read_first(folder)[0])
    except (InputError, OSError) as error:
        return Finding(PROBLEM, topic, str(error), "delete the folder, or put its records there")


def _read_first(folder: Path) -> tuple[str, RecordShape]:
    """Return a description of a folder of readable shards, and the shape of its first record."""
    shards = list_shards(folder)
    closed = [path for path in shards if not os.access(path, os.R_OK)]
    if closed:
        raise DataError(f"{closed[0]} and {len(closed) - 1} others of {len(shards)} shards cannot be read")
    first = shards[0]
    with contextlib.closing(format_of(first).open(first)) as shard:
        for _, stored in shard.scan():
            if isinstance(stored, BadRecordError):
                raise stored
            shape = stored.shape
            return (
                f"{folder}: {len(shards)} shards, records of {shape.max_seq_length} token slots and "
                f"{shape.max_predictions} predictions; the first record is intact"
            ), shape
    raise DataError(f"{first} is empty")
