"""Compares how long two trainings need to reach the same held-out losses on this machine.

    python benchmarks/time_to_accuracy.py --work-dir WORK --first-dir OURS --second-dir THEIRS --hours 3 \
        --first "bert-large pretrain --output-dir OURS ..." \
        --second "python benchmarks/hugging_face_pretraining.py --output-dir THEIRS ..."

Both commands run in turns: one is stopped (SIGSTOP) while the other computes, so that both have the whole machine, and
load by others affects both alike. Each writes metrics.jsonl to its folder. The time to a loss is the sum of the times
of the training steps before the evaluation that reached it, including waiting for data, without evaluations,
checkpoints, start-up and the other's turns. Without --first and --second, only the results of earlier turns are made.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shlex
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from bert_large.bench.options import parse_options, script_parser
from bert_large.bench.output import run_script
from bert_large.config.options import option
from bert_large.errors import InputError, UserError
from bert_large.observe.metrics import METRICS_FILE
from bert_large.observe.timing import format_spread, spread
from bert_large.report.curves import COLORS, as_png, drawing_style
from bert_large.storage.atomic import read_json, write_atomically, write_json
from bert_large.storage.output_folder import make_folder
from bert_large.tables import format_markdown

LOSS_STEP = 0.25
"""Nats between the losses of the table."""
SIDES = ("first", "second")


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """Options of this script."""

    work_dir: Path = option(text="folder for turns.json, results.json, table.md and curves.png")
    first_dir: Path = option(text="folder with metrics.jsonl of the first training")
    second_dir: Path = option(text="folder with metrics.jsonl of the second training")
    first: str | None = option(None, "command of the first training")
    second: str | None = option(None, "command of the second training")
    first_name: str = option("this package", "name of the first training in table and figure")
    second_name: str = option("Hugging Face Trainer", "name of the second training")
    turn: float = option(180.0, "length of a turn", unit="seconds", within="[0.1, 1e6]")
    second_turn: float | None = option(
        None, "length of the second's turns", unit="seconds", within="[0.1, 1e6]", default_text="as --turn"
    )
    hours: float = option(3.0, "time until both are stopped, unless they end before", within="(0, 1e4]")

    def folder(self, side: str) -> Path:
        """Return the folder of a side's metrics."""
        return self.first_dir if side == "first" else self.second_dir

    def length_of_turn(self, side: str) -> float:
        """Return the seconds of a side's turns."""
        return self.second_turn if side == "second" and self.second_turn is not None else self.turn


class _Training:
    """A training's processes, which run in turns. They are one process group, so that loaders stop too."""

    def __init__(self, command: str, metrics: Path, log: Path) -> None:
        self._metrics = metrics
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                shlex.split(command), stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        self.pauses: list[dict[str, float]] = []
        self._stopped_at: float | None = None

    def is_running(self) -> bool:
        return self.process.poll() is None

    def stop(self) -> None:
        """Stop the processes, and note after which row of the metrics."""
        self._signal(signal.SIGSTOP)
        self._stopped_at = time.monotonic()
        rows = len(_read_lines(self._metrics))
        self.pauses.append({"rows": rows, "seconds": 0.0})

    def go_on(self) -> None:
        """Continue, and note the length of the pause."""
        if self._stopped_at is not None:
            self.pauses[-1]["seconds"] = time.monotonic() - self._stopped_at
            self._stopped_at = None
        self._signal(signal.SIGCONT)

    def wait(self, seconds: float) -> None:
        """Return after the time, or when the training has ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)

    def end(self) -> None:
        """Ask the processes to end, and wait."""
        if self.is_running():
            self.go_on()
            self._signal(signal.SIGTERM)
            self.process.wait()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)


def take_turns(options: CompareOptions) -> None:
    """Run both commands in turns until they end or the time is over, and write the turns after each."""
    make_folder(options.work_dir)
    deadline = time.monotonic() + options.hours * 3600
    trainings: dict[str, _Training] = {}
    try:
        for side in SIDES:
            command = getattr(options, side)
            log = options.work_dir / f"{side}.log"
            trainings[side] = _Training(command, options.folder(side) / METRICS_FILE, log)
            trainings[side].stop()
        while time.monotonic() < deadline and any(training.is_running() for training in trainings.values()):
            for side, training in trainings.items():
                if training.is_running():
                    training.go_on()
                    training.wait(options.length_of_turn(side))
                    training.stop()
            write_json(options.work_dir / "turns.json", {side: trainings[side].pauses for side in SIDES})
    finally:
        for training in trainings.values():
            training.end()
    for side, training in trainings.items():
        if training.process.returncode not in (0, -signal.SIGTERM, 128 + signal.SIGTERM):
            raise UserError(
                f"the {side} training ended with exit code {training.process.returncode}; its output is in "
                f"{options.work_dir / f'{side}.log'}"
            )


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []


def read_curve(metrics: Path, pauses: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """Return step, seconds of training and loss of each evaluation in a file of metrics.

    The first row written after a pause contains the pause: its time is subtracted from a step's. It is not if the pause
    is longer than the step, because then it was before the step, during start-up or a checkpoint.
    """
    rows = [json.loads(line) for line in _read_lines(metrics)]
    paused = [0.0] * (len(rows) + 1)
    for pause in pauses:
        paused[min(int(pause["rows"]), len(rows))] += pause["seconds"]
    seconds, curve = 0.0, []
    for row, paused_seconds in zip(rows, paused, strict=False):
        if row["event"] == "step":
            seconds += row["seconds"] - (paused_seconds if paused_seconds <= row["seconds"] else 0.0)
        else:
            curve.append({"step": row["step"], "seconds": seconds, "masked_lm_loss": row["masked_lm_loss"]})
    if not curve:
        raise InputError(f"{metrics} has no evaluations, expected at least one")
    return curve


def ratio_of_steps(options: CompareOptions, turns: Mapping[str, Sequence[Mapping[str, float]]]) -> dict[str, Any]:
    """Return the time of the second's steps over the first's: `spread` of the ratios of medians of successive turns.

    The first step of a turn is left out, as it contains the pause.
    """
    medians = {}
    for side in SIDES:
        rows = [json.loads(line) for line in _read_lines(options.folder(side) / METRICS_FILE)]
        starts = [int(pause["rows"]) for pause in turns[side]]
        steps = [
            [row["seconds"] for row in rows[start:end] if row["event"] == "step"][1:]
            for start, end in itertools.pairwise([*starts, len(rows)])
        ]
        medians[side] = [statistics.median(seconds) if seconds else None for seconds in steps]
    pairs = zip(medians["first"], medians["second"], strict=False)
    ratios = [second / first for first, second in pairs if first is not None and second is not None]
    if not ratios:
        raise InputError("no turn of both trainings has two steps; expected longer turns or more of them")
    return spread(ratios)


def seconds_to(loss: float, curve: Sequence[Mapping[str, float]]) -> float | None:
    """Return the seconds until a loss was first reached, interpolated between evaluations; None if it was not."""
    before: Mapping[str, float] | None = None
    for point in curve:
        if point["masked_lm_loss"] <= loss:
            if before is None:
                return point["seconds"]
            share = (before["masked_lm_loss"] - loss) / (before["masked_lm_loss"] - point["masked_lm_loss"])
            return before["seconds"] + share * (point["seconds"] - before["seconds"])
        before = point
    return None


def compare(curves: Mapping[str, Sequence[Mapping[str, float]]]) -> list[dict[str, float]]:
    """Return the seconds of both sides to each loss of a grid that both have reached, and their ratio."""
    lowest = max(min(point["masked_lm_loss"] for point in curve) for curve in curves.values())
    highest = min(curve[0]["masked_lm_loss"] for curve in curves.values())
    grid = np.arange(np.floor(highest / LOSS_STEP) * LOSS_STEP, lowest, -LOSS_STEP)
    results = []
    for loss in [*map(float, grid), lowest]:
        first, second = (seconds_to(loss, curves[side]) for side in SIDES)
        assert first is not None and second is not None
        results.append({"masked_lm_loss": loss, "first": first, "second": second, "ratio": second / first})
    return results


def draw(curves: Mapping[str, Sequence[Mapping[str, float]]], names: Mapping[str, str]) -> bytes:
    """Return the losses over the hours of training as a PNG."""
    with drawing_style():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6.4, 3.8), layout="constrained")
        axes = figure.subplots()
        for (side, curve), color in zip(curves.items(), COLORS, strict=False):
            hours = [point["seconds"] / 3600 for point in curve]
            losses = [point["masked_lm_loss"] for point in curve]
            axes.plot(hours, losses, color=color, marker="o", markersize=3, label=names[side])
        axes.set_xlabel("hours of training")
        axes.set_ylabel("held-out masked-LM loss, nats")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
        return as_png(figure)


def write_results(options: CompareOptions) -> str:
    """Write curves, table and picture, and return the table with the ratio of steps."""
    turns = read_json(options.work_dir / "turns.json")
    curves: dict[str, Any] = {side: read_curve(options.folder(side) / METRICS_FILE, turns[side]) for side in SIDES}
    names = {"first": options.first_name, "second": options.second_name}
    results = compare(curves)
    rows = [["held-out masked-LM loss", *(f"{names[side]}, minutes" for side in SIDES), "ratio"]]
    for result in results:
        minutes = [f"{result[side] / 60:.1f}" for side in SIDES]
        rows.append([f"{result['masked_lm_loss']:.3f}", *minutes, f"{result['ratio']:.2f}"])
    steps = ratio_of_steps(options, turns)
    write_json(
        options.work_dir / "results.json", {"names": names, "curves": curves, "losses": results, "step_ratio": steps}
    )
    text = f"{format_markdown(rows)}\n\nTime of a step, ratio of successive turns: {format_spread(steps)}\n"
    for name, content in (("table.md", text.encode()), ("curves.png", draw(curves, names))):
        with write_atomically(options.work_dir / name) as file:
            file.write(content)
    return text


def main(argv: Sequence[str] | None = None) -> int:
    """Train in turns, and write the results."""
    parser = script_parser(CompareOptions, "time until two trainings reach the same held-out losses")
    options = parse_options(CompareOptions, parser.parse_args(argv))
    given = [side for side in SIDES if getattr(options, side) is not None]
    if len(given) == 1:
        raise InputError(f"--{given[0]} is given alone; expected --first and --second, or neither")
    if given:
        take_turns(options)
    print(write_results(options), end="")
    return 0


if __name__ == "__main__":
    sys.exit(run_script(main))
