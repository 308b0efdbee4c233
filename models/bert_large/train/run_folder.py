"""A run's folder belongs to one run: what identifies it, whether it may go on, and whether it has ended."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bert_large.config.differences import flatten
from bert_large.config.hugging_face import BERT
from bert_large.config.model import ModelConfig
from bert_large.config.training import DataConfig, OptimConfig, TrainConfig
from bert_large.data.masking import DynamicMasking
from bert_large.errors import DamageError, InputError
from bert_large.log import LOGGER
from bert_large.storage.atomic import read_json, write_atomically
from bert_large.train import checkpoint

RUN_FILE = "run.json"
ENDED_FILE = "ended.json"
_IMPORTED_FROM = "imported_from"
_STOP_CRITERIA = ("max_steps", "max_samples", "target_accuracy")


def run_identity(
    model: ModelConfig,
    data: DataConfig,
    optim: OptimConfig,
    train: TrainConfig,
    fingerprint: str,
    masking: DynamicMasking | None = None,
) -> dict[str, Any]:
    """Return the settings that must stay the same for a run to go on; all others may change at a resume."""
    identity = {
        "phase": train.phase,
        "precision": train.precision,
        "global_batch_size": train.global_batch_size,
        "seed": train.seed,
        "shuffle": data.shuffle,
        "data": fingerprint,
        "model": dataclasses.asdict(model),
        "optimizer": dataclasses.asdict(optim),
    }
    if masking is not None:  # no entry for the records' own masks: runs from before there were others go on
        identity["dynamic_masking"] = masking.vocabulary
    return json.loads(json.dumps(identity))


def imported_identity(source: str, model: ModelConfig) -> dict[str, Any]:
    """Return what identifies a checkpoint that another system made: any run of that model may go on from it."""
    return {_IMPORTED_FROM: source, "model": dataclasses.asdict(model)}


def flat_identity(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return what identifies a run on one level, with what versions that knew one architecture did not write."""
    return {"model.architecture": BERT, **flatten(identity)}


def claim(train: TrainConfig, identity: Mapping[str, Any], *, restarted: bool = False) -> Path | None:
    """Take the output folder for this run and return the checkpoint to resume from, if there is one.

    That is the newest one that is intact; a damaged newer one is warned of and removed. A run that the launcher has
    `restarted`, by the command it was first started with, goes on from what it has saved; so does one that was begun
    from a checkpoint elsewhere and is started by the same command again. Raises `InputError` when the
    folder holds another run, or checkpoints of which none is intact. Only one rank may call this, which has the lock.
    """
    folder = train.output_dir
    checkpoints = checkpoint.list_checkpoints(folder / "checkpoints")
    belongs = (folder / RUN_FILE).exists()
    resume = "auto" if restarted and (train.resume == "never" or checkpoints) else train.resume
    if resume not in ("auto", "never") and checkpoints and not _is_in(folder / "checkpoints", Path(resume)):
        LOGGER.info("%s has checkpoints of its own: going on from those, not again from %s", folder, resume)
        resume = "auto"
    if (belongs or checkpoints) and (resume == "never" or train.benchmark):
        raise InputError(f"OUTPUT_DIR {folder} holds a run; give an empty folder (or --resume auto to continue it)")
    if belongs:
        require_same(folder, _read_identity(folder / RUN_FILE), identity)
    chosen: Path | None = None
    damages: list[DamageError] = []
    if resume == "auto":
        chosen, damages = checkpoint.newest_intact(checkpoints)
    elif resume != "never":
        chosen = Path(resume)
        checkpoint.check_intact(chosen)
    if chosen is not None:
        progress, its_identity = checkpoint.read_state(chosen)
        require_same(chosen, its_identity, _comparable(identity, its_identity))
        for damage in damages:
            LOGGER.warning("warning: %s; removing that checkpoint and going on from %s", damage, chosen)
        removed = checkpoint.remove_later_checkpoints(folder / "checkpoints", progress.step)
        if len(removed) > len(damages):
            LOGGER.warning("warning: going back to step %d: later checkpoints are removed", progress.step)
    checkpoint.remove_partial_checkpoints(folder / "checkpoints")
    if not belongs and not train.benchmark:
        with write_atomically(folder / RUN_FILE) as file:
            file.write(json.dumps(identity, indent=1).encode())
    return chosen


def _is_in(folder: Path, path: Path) -> bool:
    return path.resolve().parent == folder.resolve()


def _read_identity(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except DamageError as error:
        raise DamageError(
            f"{error}. It says which run OUTPUT_DIR holds: put it back from a copy, or remove it. Without it the "
            "checkpoints there say so; a run that has none begins anew"
        ) from None


def _comparable(identity: Mapping[str, Any], checkpoints: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the part of a run's identity that a checkpoint's must equal: all of it, unless that was imported."""
    if _IMPORTED_FROM not in checkpoints:
        return identity
    return {_IMPORTED_FROM: checkpoints[_IMPORTED_FROM], "model": identity["model"]}


def require_same(where: Path, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Raise `InputError` that names every setting in which two identities differ."""
    flat_found, flat_expected = flat_identity(found), flat_identity(expected)
    differences = [
        f"{name} was {flat_found.get(name)}, is {flat_expected.get(name)}"
        for name in sorted({*flat_found, *flat_expected})
        if flat_found.get(name) != flat_expected.get(name)
    ]
    if differences:
        raise InputError(
            f"{where} is of another run: {'; '.join(differences)}. Give an empty OUTPUT_DIR, or that run's settings"
            + (
                " (keep --total-steps when you raise --max-steps)"
                if "optimizer.total_steps" in str(differences)
                else ""
            )
        )


def mark_ended(train: TrainConfig, reason: str) -> None:
    """Note that the run reached its end by its stop criteria, after its results are written."""
    with write_atomically(train.output_dir / ENDED_FILE) as file:
        file.write(json.dumps({"reason": reason, **_criteria(train)}, indent=1).encode())


def reason_ended(train: TrainConfig) -> str | None:
    """Return why the run in the folder ended, or None if it has not, or is now asked to go further.

    A damaged note of it is warned of and taken for none: the run goes on from its last checkpoint, comes to the same
    end, and notes it again.
    """
    path = train.output_dir / ENDED_FILE
    if train.benchmark or not path.exists():
        return None
    try:
        ended = read_json(path)
        missing = [name for name in ("reason", *_STOP_CRITERIA) if name not in ended]
        if missing or not isinstance(ended["reason"], str):
            raise DamageError(f"{path} is damaged: it lacks {', '.join(missing) or 'a reason in words'}")
    except DamageError as error:
        LOGGER.warning("warning: %s; taking the run for one that has not ended", error)
        return None
    same = all(ended[name] == value for name, value in _criteria(train).items())
    return ended["reason"] if same else None


def _criteria(train: TrainConfig) -> dict[str, Any]:
    return {name: getattr(train, name) for name in _STOP_CRITERIA}
