"""A run as its folder tells it: figures, settings, restarts, how it ended. It may still be going on."""

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
_TARGET = re.compile(r"\btarget_accuracy (\d+(?:\.\d+)?(?:e-\d+)?)")
_AFTER_THE_START = ("step ", "eval ", "checkpoint ", "training ended", "warning: ", "error: ")


@dataclass(frozen=True, kw_only=True)
class RecordedRun:
    """What a run's folder holds; what an unfinished run has not left yet is empty."""

    label: str
    """Printable, and different from those of the runs beside it."""
    folder: Path
    steps: Sequence[dict[str, Any]]
    """Rows of `metrics.jsonl`; figures that were not finite are None."""
    evaluations: Sequence[dict[str, Any]]
    restarts: Sequence[int]
    """The steps after which it went on from a checkpoint."""
    target_accuracy: float | None
    settings: dict[str, Any]
    """What identifies the run, on one level."""
    start_lines: Sequence[str]
    """The log of its last start up to the first step: versions, machine, data, settings."""
    ended: str | None
    """Why it ended; None: it has not, or was stopped."""
    results: dict[str, str]
    """What `results.yaml` sums up: values with units by name."""


def read_runs(folders: Sequence[Path]) -> list[RecordedRun]:
    """Return the runs in `folders`, a folder given twice once; raises `InputError` where there is none."""
    distinct = list(dict.fromkeys(folder.resolve() for folder in folders))
    return [_read_run(folder, label) for folder, label in zip(distinct, _labels(distinct), strict=True)]


def read_start_lines(folder: Path) -> list[str]:
    """Return the log of a run's last start up to its first step; nothing where there is no log."""
    return _last_start(_read_log(folder / LOG_FILE))


def _labels(folders: Sequence[Path]) -> list[str]:
    """Name folders by the last parts of their paths, as many as it takes to tell them apart."""
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
        ended=_read_if_there(folder / "ended.json", _read_reason).get("reason"),
        results=_read_if_there(folder / "results.yaml", _read_results),
    )


def _read_log(path: Path) -> list[str]:
    """Return the messages of a log, without their times."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return [_printable(_TIME_OF_LINE.sub("", line, count=1)) for line in lines]


def _last_start(log: Sequence[str]) -> list[str]:
    """Return the messages of the last start that came to training, up to its first step."""
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
        if message.startswith("starting from "):  # anew: what was before is not of this run
            restarts = []
        elif resumed := _RESUMED.match(message):
            restarts.append(int(resumed[1]))
    return restarts


def _read_if_there(path: Path, read: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """Return what `read` finds in a file; nothing where there is none."""
    if not path.is_file():
        return {}
    try:
        return read(path)
    except DamageError as error:
        raise DamageError(f"{error}; move it away to report without it") from None


def _read_reason(path: Path) -> dict[str, Any]:
    ended = read_json(path)
    if not isinstance(ended.get("reason"), str):
        raise DamageError(f"{path} is damaged: it does not say in words why the run ended")
    return ended


def _read_results(path: Path) -> dict[str, Any]:
    try:
        entries = yaml.safe_load(path.read_bytes())["results"]
        return {str(entry["key"]): f"{entry['value']} {entry['unit']}" for entry in entries}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, yaml.YAMLError) as error:
        raise DamageError(f"{path} is damaged: {error}") from None
