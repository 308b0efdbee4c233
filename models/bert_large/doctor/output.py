"""Checks of the output folder: whether a run can write there, and whether its checkpoints fit."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bert_large.config.model import ModelConfig
from bert_large.config.training import TrainConfig
from bert_large.doctor.finding import OK, PROBLEM, WARNING, Finding
from bert_large.errors import UserError
from bert_large.model.bert import skeleton
from bert_large.model.pretrained import weights_of
from bert_large.storage.atomic import describe_bytes, free_bytes, write_json
from bert_large.storage.lock import LOCK_FILE, FolderLock
from bert_large.storage.output_folder import make_folder
from bert_large.train.checkpoint import bytes_to_save
from bert_large.train.run_folder import RUN_FILE, require_utf_8

_TOPIC = "output folder"


def check_output(folder: Path, model: ModelConfig) -> list[Finding]:
    """Check the folder with the functions that a run calls at its start; nothing is left behind."""
    folder = folder.absolute()
    warnings: list[str] = []
    try:
        require_utf_8(folder)
        with _made(folder), tempfile.TemporaryDirectory(prefix=".bert-large-doctor-", dir=folder) as name:
            scratch = Path(name)
            # A folder without a lock is not locked itself: the lock's file would stay behind.
            with FolderLock(folder if (folder / LOCK_FILE).exists() else scratch, "OUTPUT_DIR", warnings.append):
                write_json(scratch / "probe.json", {})
            if not _can_flush(scratch):
                warnings.append("the file system does not flush folders to disk")
            has_run, free = (folder / RUN_FILE).exists(), free_bytes(folder)
    except (UserError, OSError) as error:
        return [Finding(PROBLEM, _TOPIC, str(error), "set OUTPUT_DIR to a folder that this user can write to")]
    found = f"{folder} can be written to"
    if has_run:
        found += "; it holds a run, which only a run with the same settings continues"
    if warnings:
        remedy = "use a local disk or NFS version 4, or keep copies: a power failure can damage the newest checkpoint"
        return [Finding(WARNING, _TOPIC, f"{found}; {'; '.join(warnings)}", remedy), _check_room(folder, free, model)]
    return [Finding(OK, _TOPIC, found), _check_room(folder, free, model)]


@contextlib.contextmanager
def _made(folder: Path) -> Iterator[None]:
    """Make a folder and those above it as a run does; afterwards delete those that did not exist before."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        make_folder(folder)
        yield
    finally:
        with contextlib.suppress(OSError):
            for path in missing:
                path.rmdir()


def _can_flush(folder: Path) -> bool:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def _check_room(folder: Path, free: int, model: ModelConfig) -> Finding:
    weights = weights_of(skeleton(model))
    weights_bytes = sum(weight.nbytes for weight in weights.values())
    return check_room(folder, free, bytes_to_save(weights), weights_bytes, TrainConfig.keep_checkpoints)


def check_room(folder: Path, free: int, checkpoint_bytes: int, weights_bytes: int, keep: int) -> Finding:
    """Check that a run's checkpoints fit: `keep` of them, the next one before the oldest is deleted, and the model."""
    needed = (keep + 1) * checkpoint_bytes + weights_bytes
    found = (
        f"{describe_bytes(free)} free for {folder}; {describe_bytes(needed)} needed: {keep + 1} checkpoints of "
        f"{describe_bytes(checkpoint_bytes)} at a time and the model"
    )
    if free >= needed:
        return Finding(OK, "disk", found)
    remedy = "free some space, set another OUTPUT_DIR, or keep fewer checkpoints (--keep-checkpoints 1)"
    return Finding(PROBLEM if free < checkpoint_bytes else WARNING, "disk", found, remedy)
