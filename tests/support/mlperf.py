"""Reads MLPerf logs, and runs MLCommons' checker on them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.runs import process_environment


def events(path: Path) -> list[dict[str, Any]]:
    """Return a log's events; every line must be an event."""
    prefix = ":::MLLOG "
    lines = path.read_text(encoding="utf-8").splitlines()
    assert all(line.startswith(prefix) for line in lines)
    return [json.loads(line.removeprefix(prefix)) for line in lines]


def values(path: Path) -> dict[str, Any]:
    """Return the values by key; no key may have two values."""
    found = [(event["key"], event["value"]) for event in events(path) if event["value"] is not None]
    assert len(dict(found)) == len(found)
    return dict(found)


def course(path: Path) -> list[tuple[Any, ...]]:
    """Return key and samples (or status) of the events after `run_start`, without settings."""
    names = ("first_epoch_num", "epoch_count", "epoch_num", "status")
    keys = ("block_start", "block_stop", "eval_start", "eval_accuracy", "eval_stop", "resumed", "run_stop")
    return [
        (event["key"], *(event["metadata"][name] for name in names if name in event["metadata"]))
        for event in events(path)
        if event["key"] in keys
    ]


def check(log: Path, package_parent: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run MLCommons' compliance checker on a log, with the installed rules or those of a package in a folder."""
    program = [sys.executable, "-m", "mlperf_logging.compliance_checker", "--usage", "training", "--ruleset", "5.0.0"]
    environment = process_environment()
    if package_parent is not None:
        environment["PYTHONPATH"] = f"{package_parent}:{environment['PYTHONPATH']}"
    return subprocess.run(
        [*program, "--log_output", str(log.with_suffix(".checked")), "--werror", str(log)],
        env=environment, cwd=log.parent, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
