"""A run as its folder tells it: figures, settings, restarts, how it ended. It may still be going on."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bert_large.config import flatten
from bert_large.errors import InputError
from bert_large.observe.metrics import read_rows

_TIME_OF_LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ")
_RESUMED = re.compile(r"resuming after step (\d+) from ")
_TARGET = re.compile(r"\btarget_accuracy ([0-9.e-]+)")
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
        raise InputError(f"{metrics} does not exist; expected the OUTPUT_DIR of a run at {folder}")
    log = _read_log(folder / "train.log")
    start_lines = _last_start(log)
    target = _TARGET.search("\n".join(start_lines))
    return RecordedRun(
        label=label,
        folder=folder,
        steps=read_rows(metrics, "step"),
        evaluations=read_rows(metrics, "eval"),
        restarts=_restarts(log),
        target_accuracy=float(target[1]) if target else None,
        settings=flatten(_read_mapping(folder / "run.json")),
        start_lines=start_lines,
        ended=_read_mapping(folder / "ended.json").get("reason"),
        results={
            entry["key"]: f"{entry['value']} {entry['unit']}"
            for entry in _read_mapping(folder / "results.yaml").get("results", [])
        },
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


def _read_mapping(path: Path) -> dict[str, Any]:
    """Return what a JSON or YAML file holds; nothing where there is none."""
    if not path.is_file():
        return {}
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        content = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError):
        content = None
    if not isinstance(content, dict):
        raise InputError(f"{path} is damaged: expected what a run writes there; move it away to report without it")
    return content
