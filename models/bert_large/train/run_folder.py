"""A run's output folder: which run it belongs to, where that run resumes, and whether it has ended."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bert_large.config.differences import differences, flatten
from bert_large.config.hugging_face import BERT
from bert_large.config.model import ModelConfig
from bert_large.config.options import describe_value
from bert_large.config.training import STEPS_OF_TIME, DataConfig, OptimConfig, TrainConfig
from bert_large.data.masking import DynamicMasking
from bert_large.distributed.collectives import Ranks
from bert_large.errors import DamageError, InputError
from bert_large.log import LOGGER
from bert_large.model.pretrained import check_model_folder
from bert_large.storage.atomic import read_json, remove_partial_files, write_json
from bert_large.storage.integrity import facts_of
from bert_large.storage.lock import FolderLock
from bert_large.storage.output_folder import make_folder
from bert_large.train import checkpoint
from bert_large.train.state import TrainingState

RUN_FILE = "run.json"
ENDED_FILE = "ended.json"
LOG_FILE = "train.log"
CHECKPOINTS = "checkpoints"
MODEL = "model_save"
DATA_INDEX = "data_index"
_IMPORTED_FROM = "imported_from"
_INITIAL_WEIGHTS = "initial_weights"
"""Key in `run.json`: size and checksum of the weights in CHECKPOINT_DIR that the run started from, or null."""
_DIGESTS = {
    "data": "the shards in DATASET_DIR",
    "model": "the weights in CHECKPOINT_DIR",
    "vocabulary": "the tokens of the vocabulary",
}
"""Values of identities that are digests, of a run's data and of the model and vocabulary of fine-tuning."""
_STOP_CRITERIA = ("max_steps", "max_samples", "target_accuracy")


@contextlib.contextmanager
def locked_folder(folder: Path, ranks: Ranks) -> Iterator[None]:
    """Create the output folder on every host, and hold its lock on the main rank.

    Also deletes unfinished files left by killed processes. Raises `InputError` on all ranks if one of them fails.
    """
    with contextlib.ExitStack() as stack:
        with ranks.failing_together():
            require_utf_8(folder)
            make_folder(folder)
            if ranks.is_main:
                stack.enter_context(FolderLock(folder, "OUTPUT_DIR", LOGGER.warning))
                checkpoint.remove_partial_checkpoints(folder / CHECKPOINTS)
        with ranks.failing_together():
            if ranks.local_rank == 0:  # the folder may be local to each host
                for place in (folder, folder / DATA_INDEX):
                    remove_partial_files(place)
        yield


def require_utf_8(folder: Path) -> None:
    """Raise `InputError` for a path that the safetensors library cannot open, so that no checkpoint could be read."""
    try:
        str(folder.absolute()).encode()
    except UnicodeEncodeError:
        raise InputError(
            f"OUTPUT_DIR {folder} has a name that is not valid UTF-8, so its checkpoints could not be read back; "
            "give a folder with another name"
        ) from None


def run_identity(
    model: ModelConfig,
    data: DataConfig,
    optim: OptimConfig,
    train: TrainConfig,
    fingerprint: str,
    masking: DynamicMasking | None = None,
    windows: int = 1,
) -> dict[str, Any]:
    """Return the settings that must stay the same when a run resumes; all others may change."""
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
    for name in ("max_hours", "start_batch_size"):  # omitted if not set, for the same reason as below
        if (value := getattr(train, name)) is not None:
            identity[name] = value
    if train.start_batch_size is not None:
        identity["batch_ramp_steps"] = train.batch_ramp_steps
    if masking is not None:  # omitted for the records' own masks, so that runs of older versions can still be resumed
        identity["dynamic_masking"] = masking.description
    if windows > 1:  # likewise: in one window, the order is that of older versions
        identity["shuffle_window"] = data.shuffle_window
    return json.loads(json.dumps(identity))


def imported_identity(source: str, model: ModelConfig) -> dict[str, Any]:
    """Return the identity of a checkpoint that another system made: any run of the same model may resume from it."""
    return {_IMPORTED_FROM: source, "model": dataclasses.asdict(model)}


def flat_identity(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return an identity on one level, with the default of settings that older versions did not have."""
    earlier = {
        "model.architecture": BERT,
        "optimizer.schedule": OptimConfig.schedule,
        "optimizer.decay_fraction": OptimConfig.decay_fraction,
        "shuffle_window": 0,
    }
    return {**earlier, **flatten(identity)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Start:
    """How a run starts in its folder. `plan_start` decides, and changes nothing; `carry_out` makes the changes.

    Between the two, everything else that could reject the run is checked. On ranks other than the main one, there is
    nothing to carry out.
    """

    folder: Path
    identity: Mapping[str, Any]
    resume_from: Path | None = None
    state: TrainingState = dataclasses.field(default_factory=TrainingState)
    ended: str | None = None
    """Why the run ended, if it is complete and there is nothing to do."""
    damages: Sequence[DamageError] = ()
    """Errors in checkpoints that are newer than `resume_from`."""
    obsolete: Sequence[Path] = ()
    """Checkpoints to delete: damaged ones, and those after the step that the run goes back to."""
    run_file: Mapping[str, Any] | None = None
    """Content of `run.json`, if it is to be written."""

    def carry_out(self) -> None:
        """Update the folder to record that the run has started from `state`."""
        (self.folder / ENDED_FILE).unlink(missing_ok=True)
        for damage in self.damages:
            LOGGER.warning("warning: %s; deleting that checkpoint and resuming from %s", damage, self.resume_from)
        if len(self.obsolete) > len(self.damages):
            LOGGER.warning("warning: going back to step %d: later checkpoints are deleted", self.state.step)
        for path in self.obsolete:  # otherwise the next start would resume beyond the metrics of this one
            checkpoint.remove_checkpoint(path)
        if self.run_file is not None:
            write_json(self.folder / RUN_FILE, self.run_file)


def plan_start(
    train: TrainConfig, identity: Mapping[str, Any], initial_weights: Path | None = None, *, restarted: bool = False
) -> Start:
    """Decide how a run starts in its output folder, without changing the folder.

    The run resumes from the newest intact checkpoint. A run that the launcher has `restarted` with its original
    command resumes from its own checkpoints, and so does one that started from a checkpoint elsewhere and is run again
    with the same command. Raises `InputError` if the folder belongs to another run, or has checkpoints but no intact
    one. Only the rank that holds the folder's lock may call this.
    """
    folder = train.output_dir
    checkpoints = checkpoint.list_checkpoints(folder / CHECKPOINTS)
    belongs = (folder / RUN_FILE).exists()
    resume = "auto" if restarted and (train.resume == "never" or checkpoints) else train.resume
    if (belongs or checkpoints) and (resume == "never" or train.benchmark):
        to_continue = "" if train.benchmark else " (or --resume auto to continue it)"
        raise InputError(f"OUTPUT_DIR {folder} holds a run; give an empty folder{to_continue}")
    if belongs:
        _require_same_run(folder, identity, initial_weights)
        if ended := reason_ended(train):
            return Start(folder=folder, identity=identity, ended=ended)
    is_elsewhere = resume not in ("auto", "never") and Path(resume).resolve().parent != (folder / CHECKPOINTS).resolve()
    if is_elsewhere and checkpoints:
        LOGGER.info("%s has checkpoints: resuming from those, and not again from %s", folder, resume)
        resume = "auto"
    chosen: Path | None = None
    damages: list[DamageError] = []
    if resume == "auto":
        chosen, damages = checkpoint.newest_intact(checkpoints)
    elif resume != "never":
        chosen = Path(resume)
        checkpoint.check_intact(chosen)
    run_file = None
    if not belongs and not train.benchmark:
        run_file = {**identity, _INITIAL_WEIGHTS: _describe_weights(initial_weights)}
    if chosen is None:
        return Start(folder=folder, identity=identity, run_file=run_file)
    state, found_identity = checkpoint.read_state(chosen)
    require_same(chosen, found_identity, _comparable(identity, found_identity))
    return Start(
        folder=folder,
        identity=identity,
        resume_from=chosen,
        state=state,
        damages=damages,
        obsolete=checkpoint.later_checkpoints(folder / CHECKPOINTS, state.step),
        run_file=run_file,
    )


def _require_same_run(folder: Path, identity: Mapping[str, Any], initial_weights: Path | None) -> None:
    """Raise `InputError` unless the run in the folder has this identity, and started from the given weights, if any."""
    try:
        recorded = read_json(folder / RUN_FILE)
    except DamageError as error:
        raise DamageError(
            f"{error}. It identifies the run in OUTPUT_DIR: restore it from a copy, or delete it. Without it, the "
            "checkpoints identify the run; a run without checkpoints starts from scratch"
        ) from None
    is_recorded = _INITIAL_WEIGHTS in recorded  # older versions did not
    started_from = recorded.pop(_INITIAL_WEIGHTS, None)
    require_same(folder, recorded, identity)
    if initial_weights is None or not is_recorded:
        return
    given = _describe_weights(initial_weights)
    if given != started_from:
        to_continue = "leave it out" if started_from is None else "set it to the one that the run started from"
        raise InputError(
            f"CHECKPOINT_DIR {initial_weights} has weights of {given}, but the run in OUTPUT_DIR {folder} started from "
            f"{started_from or 'random weights'}. Give an empty OUTPUT_DIR to train from that CHECKPOINT_DIR, or "
            f"{to_continue} to continue the run"
        )


def _describe_weights(folder: Path | None) -> str | None:
    return None if folder is None else str(facts_of(check_model_folder(folder)))


def _comparable(identity: Mapping[str, Any], found: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the part of a run's identity that a checkpoint's identity must equal: all, unless it was imported."""
    if _IMPORTED_FROM not in found:
        return identity
    return {_IMPORTED_FROM: found[_IMPORTED_FROM], "model": identity["model"]}


def require_same(where: Path, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Raise `InputError` that names every setting in which two identities, of pretraining or fine-tuning, differ."""
    if _command_of(found) != _command_of(expected):
        raise InputError(
            f"{where} belongs to another run: it holds one of `bert-large {_command_of(found)}`. Give an empty "
            "OUTPUT_DIR"
        )
    changes = differences(_as_given(flat_identity(found)), _as_given(flat_identity(expected)))
    if "shuffle_window" in changes:  # which decides what the digest of the data covers
        changes.pop("data", None)
    if not changes:
        return
    listed = "; ".join(_describe_change(name, before, now) for name, (before, now) in changes.items())
    hint = " (keep --total-steps when you raise --max-steps)" if "optimizer.total_steps" in changes else ""
    raise InputError(
        f"{where} belongs to another run: {listed}. Give an empty OUTPUT_DIR, or that run's settings and data{hint}"
    )


def _command_of(identity: Mapping[str, Any]) -> str:
    return "finetune" if "task" in identity else "pretrain"


def _as_given(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return a flat identity in which the schedule of a run of hours is in shares of its time, not in steps."""
    if identity.get("max_hours") is None:
        return dict(identity)
    share = identity["optimizer.warmup_steps"] / STEPS_OF_TIME
    lengths = ("optimizer.total_steps", "optimizer.warmup_steps")
    return {name: value for name, value in identity.items() if name not in lengths} | {
        "optimizer.warmup_fraction": share
    }


def _describe_change(name: str, before: Any, now: Any) -> str:
    """Return how a setting differs; digests, which mean nothing to a user, with the name of what they are of."""
    values = f"was {describe_value(before)}, is {describe_value(now)}"
    if name.startswith("data."):
        return f"the examples of the {name.removeprefix('data.')} split are others (their digest {values})"
    if name in _DIGESTS:
        return f"{_DIGESTS[name]} are others (their digest {values})"
    return f"{name} {values}"


def mark_ended(train: TrainConfig, reason: str) -> None:
    """Record that the run met a stop criterion; called after its results are written."""
    write_json(train.output_dir / ENDED_FILE, {"reason": reason, **_criteria(train)})


def reason_ended(train: TrainConfig) -> str | None:
    """Return why the run in the folder ended, or None if it has not, or its stop criteria have changed since.

    If `ended.json` is damaged, only a warning is logged; the run resumes from its last checkpoint, ends again and
    writes it again.
    """
    path = train.output_dir / ENDED_FILE
    if not path.exists():
        return None
    try:
        ended = read_json(path)
        missing = [name for name in ("reason", *_STOP_CRITERIA) if name not in ended]
        if missing or not isinstance(ended["reason"], str):
            raise DamageError(f"{path} is damaged: it lacks {', '.join(missing) or 'a reason in words'}")
    except DamageError as error:
        LOGGER.warning("warning: %s; assuming that the run has not ended", error)
        return None
    same = all(ended[name] == value for name, value in _criteria(train).items())
    return ended["reason"] if same else None


def _criteria(train: TrainConfig) -> dict[str, Any]:
    return {name: getattr(train, name) for name in _STOP_CRITERIA}
