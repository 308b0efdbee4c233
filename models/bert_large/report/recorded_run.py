"""The record of a run in its output folder: metrics, settings, restarts and its end. It may still be running."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bert_large.config.differences import flatten
from bert_large.errors import DamageError, InputError
from bert_large.observe.metrics import read_rows
from bert_large.storage.atomic import read_json

LOG_FILE = "train.log"
_TIME_OF_LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ")
_RESUMED = re.compile(r"resuming after step (\d+) from ")
_ENDED = "training ended: "
_TARGET = re.compile(r"\btarget_accuracy (\d+(?:\.\d+)?(?:e-\d+)?)")
_AFTER_THE_START = ("step ", "eval ", "checkpoint ", "training ended", "warning: ", "error: ")


@dataclass(frozen=True, kw_only=True)
class RecordedRun:
    """The content of a run's folder; the fields of files that do not exist yet are empty."""

    label: str
    """A printable name that no other run of the report has."""
    folder: Path
    steps: Sequence[dict[str, Any]]
    """Rows of `metrics.jsonl`; values that were not finite are None."""
    evaluations: Sequence[dict[str, Any]]
    restarts: Sequence[int]
    """Steps after which the run resumed from a checkpoint."""
    target_accuracy: float | None
    settings: dict[str, Any]
    """The identity of the run, on one level."""
    start_lines: Sequence[str]
    """Lines of the log from the last start to the first step: versions, machine, data, settings."""
    ended: str | None
    """Why the run ended. If None, it is running, or was stopped."""
    results: dict[str, str]
    """Values of `results.yaml` with their units, by name."""


def read_runs(folders: Sequence[Path]) -> list[RecordedRun]:
    """Return the runs in `folders` without repetitions; raises `InputError` for a folder without a run."""
    distinct = list(dict.fromkeys(folder.resolve() for folder in folders))
    return [_read_run(folder, label) for folder, label in zip(distinct, _labels(distinct), strict=True)]


def read_start_lines(folder: Path) -> list[str]:
    """Return the lines of a run's log from its last start to its first step; empty without a log."""
    return _last_start(_read_log(folder / LOG_FILE))


def _labels(folders: Sequence[Path]) -> list[str]:
    """Name folders by the last parts of their paths: as many parts as make the names different."""
    count = 1
    while len({folder.parts[-count:] for folder in folders}) < len(folders):
        count += 1
    return [_printable("/".join(folder.parts[-count:])) for folder in folders]


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def _read_run(folder: Path, label: str) -> RecordedRun:
    metrics = folder / "metrics.jsonl"
    if not metrics.is_file():
        raise InputError(f"{metrics} does not exist; expected the OUTPUT_DIR of pretraining at {folder}")
    log = _read_log(folder / LOG_FILE)
    start_lines = _last_start(log)
    target = _TARGET.search("\n".join(start_lines))
    return RecordedRun(
        label=label,
        folder=folder,
        steps=read_rows(metrics, "step"),
        evaluations=read_rows(metrics, "eval"),
        restarts=_restarts(log),
        target_accuracy=float(target[1]) if target else None,
        settings=flatten(_read_if_there(folder / "run.json", read_json)),
        start_lines=start_lines,
        ended=_reason_ended(_read_if_there(folder / "ended.json", _read_reason).get("reason"), log),
        results=_read_if_there(folder / "results.yaml", _read_results),
    )


def _read_log(path: Path) -> list[str]:
    """Return the messages of a log, without their times."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return [_printable(_TIME_OF_LINE.sub("", line, count=1)) for line in lines]


def _last_start(log: Sequence[str]) -> list[str]:
    """Return the messages of the last start that reached training, up to its first step."""
    starts: list[list[str]] = []
    for message in log:
        if message.startswith("bert-large "):
            starts.append([])
        if starts and not message.startswith(_AFTER_THE_START):
            starts[-1].append(message)
    return next((start for start in reversed(starts) if any(line.startswith("settings ") for line in start)), [])


def _restarts(log: Sequence[str]) -> list[int]:
    restarts: list[int] = []
    for message in log:
        if message.startswith("starting from "):  # a new run: earlier messages belong to another one
            restarts = []
        elif resumed := _RESUMED.match(message):
            restarts.append(int(resumed[1]))
    return restarts


def _reason_ended(recorded: str | None, log: Sequence[str]) -> str | None:
    """Return the `recorded` reason, or None if the log shows that it belongs to an earlier end of the run.

    A run that is extended resumes after its end, and may since have been stopped.
    """
    if recorded is None:
        return None
    expected = _ENDED + _printable(recorded.partition("\n")[0])
    for message in reversed(log):
        if message.startswith((_ENDED, "starting from ")) or _RESUMED.match(message):
            return recorded if message == expected else None
    return recorded


def _read_if_there(path: Path, read: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """Return the content of a file, read by `read`; empty if there is no file."""
    if not path.is_file():
        return {}
    try:
        return read(path)
    except DamageError as error:
        raise DamageError(f"{error}; delete it to report without it") from None


def _read_reason(path: Path) -> dict[str, Any]:
    ended = read_json(path)
    if not isinstance(ended.get("reason"), str):
        raise DamageError(f"{path} is damaged: expected a text under 'reason'")
    return ended


def _read_results(path: Path) -> dict[str, Any]:
    try:
        entries = yaml.safe_load(path.read_bytes())["results"]
        return {str(entry["key"]): f"{entry['value']} {entry['unit']}" for entry in entries}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, yaml.YAMLError) as error:
        raise DamageError(f"{path} is damaged: {error}") from None
