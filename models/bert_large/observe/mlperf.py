"""The MLPerf log of a run, in the format of MLCommons' `mlperf-logging` package, which checks it too.

    python -m mlperf_logging.compliance_checker --usage training --ruleset 5.0.0 PATH

A log covers a whole run, over all of its processes. `run_start` precedes the first access to the records. `run_stop`
follows when a stop criterion is met, with status `success` at the target and `aborted` otherwise. The log of a run that
is interrupted, killed or fails has no `run_stop`, and the checker refuses it. On resume, lines after the checkpoint are
deleted, like those of `metrics.jsonl`, and a line `resumed` is added; the time between the processes counts. Epochs
are counted in samples, as BERT's rules require.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bert_large.errors import InputError
from bert_large.extras import missing_extra
from bert_large.log import LogFileHandler
from bert_large.observe.metrics import EvalMetrics
from bert_large.observe.observer import Observer
from bert_large.storage.atomic import explain_write_errors, sync_file, write_atomically

_PACKAGE_ROOT = Path(__file__).resolve().parents[2]
_TOKEN = ":::MLLOG "
_FIELDS = ("namespace", "time_ms", "event_type", "key", "value", "metadata")
_BLOCK_KEYS = ("block_start", "block_stop")
_OWNER = "output_dir"
"""Key of the first line, whose value is the output folder of the run."""
_SAMPLES = "samples_count"
"""Metadata of every line after `run_start`: the number of samples trained on so far."""


def milliseconds_now() -> int:
    """Return the current time as in a log line, in milliseconds since 1970."""
    return int(time.time() * 1000)


@dataclass(frozen=True, kw_only=True)
class RunTimes:
    """Times of events before the log is opened, in milliseconds since 1970."""

    init_start: int
    run_start: int
    """Before the first access to the records, and right after they were dropped from the page cache."""


def check_log(path: Path, output_dir: Path) -> None:
    """Raise `InputError` if `mlperf-logging` is missing, or `path` is not a log of the run in `output_dir`."""
    if importlib.util.find_spec("mlperf_logging") is None:
        raise missing_extra("--mlperf-log", "mlperf", "the package mlperf-logging is missing")
    if path.is_dir():
        raise InputError(f"--mlperf-log {path} is a folder; name a file, such as result_0.txt in it")
    if not path.exists() or path.stat().st_size == 0:
        return
    owner = next((event["value"] for event in _read_events(path) if event["key"] == _OWNER), None)
    if owner != str(output_dir.resolve()):
        belongs = "is not a log of a run" if owner is None else f"is the log of the run in {owner}"
        raise InputError(f"--mlperf-log {path} exists and {belongs}; name another file, or delete it")


class MlperfLog(Observer):
    """Writes the log of a run, on the main rank only."""

    def __init__(
        self, path: Path, *, output_dir: Path, first_samples: int, times: RunTimes, settings: Mapping[str, Any],
        data: Mapping[str, int], samples_of_block: Callable[[int], int],
    ) -> None:  # fmt: skip
        """Start the log, or continue it after `first_samples` samples.

        `settings` are keys and values that are known before the records are read, `data` those known afterwards;
        `samples_of_block(samples)` returns the planned length of a block that starts after so many samples.
        """
        from mlperf_logging.mllog import mllog  # an extra: installed with [mlperf]

        self._path = path
        self._samples_of_block = samples_of_block
        self._block_start: int | None = None
        """Number of samples before the open block; None if no block is open."""
        if first_samples > 0:
            self._block_start = _cut_back(path, first_samples)
        # A separate logger without parents: the package's default one also prints to standard output.
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if first_samples == 0:
                path.write_bytes(b"")
            handler = LogFileHandler(path)
        except OSError as error:
            raise InputError(f"--mlperf-log {path} cannot be written: {error.strerror}; name another file") from None
        handler.setFormatter(logging.Formatter("%(message)s"))
        self._logger = logging.Logger("mlperf", logging.INFO)
        self._logger.addHandler(handler)
        self._mllog = mllog.MLLogger(self._logger, default_stack_offset=2, root_dir=re.escape(str(_PACKAGE_ROOT)))
        if first_samples > 0:
            self._event("resumed", first_samples, first_samples)
        else:
            self._begin(output_dir, times, settings, data)

    def step_starts(self, samples: int) -> None:
        """Open a block, which is the samples between two evaluations, unless one is open."""
        if self._block_start is None:
            self._block_start = samples
            self._start("block_start", samples, first_epoch_num=samples, epoch_count=self._samples_of_block(samples))

    def evaluation_starts(self, samples: int) -> None:
        """Close the block, and open the evaluation."""
        self._close_block(samples)
        self._start("eval_start", samples, epoch_num=samples)

    def evaluation(self, step: int, samples: int, metrics: EvalMetrics) -> None:
        """Write the accuracy, and close the evaluation."""
        self._event("eval_accuracy", metrics.masked_lm_accuracy, samples, epoch_num=samples)
        self._end("eval_stop", samples, epoch_num=samples)

    def run_ends(self, samples: int, reached_target: bool) -> None:
        """Write whether the run reached its target."""
        self._close_block(samples)
        self._end("run_stop", samples, epoch_num=samples, status="success" if reached_target else "aborted")

    def flush_to_disk(self) -> None:
        """Flush all lines to disk."""
        with explain_write_errors(self._path):
            sync_file(self._path)

    def close(self) -> None:
        """Close the file."""
        for handler in self._logger.handlers:
            handler.close()

    def _begin(self, output_dir: Path, times: RunTimes, settings: Mapping[str, Any], data: Mapping[str, int]) -> None:
        log = self._mllog
        log.event(_OWNER, str(output_dir.resolve()), time_ms=times.init_start)
        log.start("init_start", time_ms=times.init_start)
        log.event("cache_clear", True, time_ms=times.run_start)
        for key, value in settings.items():
            log.event(key, value, time_ms=times.run_start)
        log.end("init_stop", time_ms=times.run_start)
        log.start("run_start", time_ms=times.run_start, metadata={_SAMPLES: 0})
        for key, value in data.items():
            log.event(key, value, metadata={_SAMPLES: 0})

    def _close_block(self, samples: int) -> None:
        first, self._block_start = self._block_start, None
        if first is not None:
            self._end("block_stop", samples, first_epoch_num=first, epoch_count=samples - first)

    def _start(self, key: str, samples: int, **metadata: Any) -> None:
        self._mllog.start(key, metadata={**metadata, _SAMPLES: samples})

    def _end(self, key: str, samples: int, **metadata: Any) -> None:
        self._mllog.end(key, metadata={**metadata, _SAMPLES: samples})

    def _event(self, key: str, value: Any, samples: int, **metadata: Any) -> None:
        self._mllog.event(key, value, metadata={**metadata, _SAMPLES: samples})


def _cut_back(path: Path, samples: int) -> int | None:
    """Delete what was logged after `samples` samples, and the run's end; return the start of a block left open."""
    if not path.exists():
        raise InputError(
            f"--mlperf-log {path} does not exist, but the run resumes after {samples} samples; a log must cover its "
            "run from the start: give the log that it was started with, leave it out, or give an empty OUTPUT_DIR"
        )
    kept = []
    for event in _read_events(path):
        if event["metadata"].get(_SAMPLES, 0) > samples or event["key"] == "run_stop":
            break
        kept.append(event)
    while kept and kept[-1]["key"] in ("eval_start", "eval_accuracy"):  # from an evaluation that was interrupted
        kept.pop()
    with write_atomically(path) as file:
        file.write("".join(f"{_TOKEN}{json.dumps(event)}\n" for event in kept).encode())
    blocks = [event for event in kept if event["key"] in _BLOCK_KEYS]
    is_open = bool(blocks) and blocks[-1]["key"] == "block_start"
    return blocks[-1]["metadata"]["first_epoch_num"] if is_open else None


def _read_events(path: Path) -> list[dict[str, Any]]:
    """Return the events of a log without a last line that was cut short."""
    events = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(True), start=1):
        if not line.endswith("\n"):
            break
        try:
            events.append(_parse_event(line))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise InputError(
                f"--mlperf-log {path}, line {number}, is not a line of an MLPerf log; name another file"
            ) from None
    return events


def _parse_event(line: str) -> dict[str, Any]:
    values = json.loads(line.removeprefix(_TOKEN))
    event = {name: values[name] for name in _FIELDS}
    counts = [event["metadata"].get(_SAMPLES, 0)]
    if event["key"] in _BLOCK_KEYS:
        counts.append(event["metadata"]["first_epoch_num"])
    if not all(type(count) is int for count in counts):
        raise ValueError(f"the sample counts {counts} are not whole numbers")
    return event
