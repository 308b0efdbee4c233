"""Draws the picture of the README from recorded values: throughput, encoder time, and a learning curve.

    python benchmarks/draw_readme_figure.py [--record output/demo] [--output-file docs/images/throughput_and_curve.svg]

The bars are in readme_figure.json, with date, machine, commands and source of every value. The curve is in
demo_curve.json; `--record` replaces it with that of a finished demo (`make demo`).
"""

from __future__ import annotations

import datetime
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from bert_large.bench.output import run_script
from bert_large.config.options import CommandParser, add_settings, setting
from bert_large.cpu import read_cpu_model
from bert_large.observe.metrics import read_rows
from bert_large.report.curves import COLORS, INK, as_svg, condense, drawing_style
from bert_large.storage.atomic import read_json, write_atomically, write_json
from bert_large.storage.output_folder import make_folder

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HERE = Path(__file__).resolve().parent
VALUES_FILE, CURVE_FILE = HERE / "readme_figure.json", HERE / "demo_curve.json"
PICTURE = HERE.parent / "docs/images/throughput_and_curve.svg"
_GAP = 4
"""Points between a bar or line and its label."""
_MARGIN = 0.12
"""Inches on both sides of each part, so that titles do not touch."""


@dataclass(frozen=True, kw_only=True)
class FigureOptions:
    """Options of this script."""

    record: Path | None = setting(None, "take the curve of the demo in this folder, and store it", variable="")
    output_file: Path = setting(PICTURE, "the picture to write", variable="")


def record_curve(demo: Path) -> dict[str, Any]:
    """Return the thinned curve of a demo: the masked-LM loss of both phases in training and on held-out text."""
    phases, offset = [], 0
    for name in ("phase1", "phase2"):
        metrics = demo / name / "metrics.jsonl"
        steps, evaluations = read_rows(metrics, "step"), read_rows(metrics, "eval")
        samples, _, _ = condense(np.array([row["samples"] for row in steps], dtype=np.float64))
        loss, _, _ = condense(np.array([row["masked_lm_loss"] for row in steps], dtype=np.float64))
        phases.append(
            {
                "samples": [round(offset + float(value)) for value in samples],
                "masked_lm_loss": [round(float(value), 4) for value in loss],
                "evaluations": [[offset + row["samples"], round(row["masked_lm_loss"], 4)] for row in evaluations],
            }
        )
        offset += steps[-1]["samples"]
    return {
        "date": f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d}",
        "machine": f"{read_cpu_model()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
        "command": "make demo",
        "phases": phases,
    }


def draw(values: Mapping[str, Any], curve: Mapping[str, Any] | None) -> bytes:
    """Return the picture as an SVG for light and dark pages, without the last part if no curve is recorded."""
    with drawing_style():
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine

        widths = (1.0, 1.0) if curve is None else (1.0, 1.0, 1.5)
        figure = Figure(figsize=(3.6 * sum(widths), 3.8), layout=ConstrainedLayoutEngine(w_pad=_MARGIN))
        throughput, encoder, *rest = figure.subplots(1, len(widths), width_ratios=widths)
        for axes in (throughput, encoder, *rest):
            axes.spines[["top", "right"]].set_visible(False)
        throughput.set_title("Training, sequences/s\n(more is better)", loc="left", fontsize="medium")
        _draw_bars(throughput, values["throughput"]["groups"])
        encoder.set_title("Encoder time over matrix products\n(less is better)", loc="left", fontsize="medium")
        _draw_bars(encoder, values["encoder"]["groups"])
        if curve is not None:
            _draw_curve(rest[0], curve["phases"])
        return as_svg(figure)


def _draw_bars(axes: Axes, groups: Mapping[str, Mapping[str, float]]) -> None:
    """Draw a bar per value, all of one side by side, and the name and value of each beside it."""
    place, places, labels = 0.0, [], []
    for group, bars in groups.items():
        for number, (name, value) in enumerate(bars.items()):
            bar = axes.barh(place, value, color=COLORS[0] if number == 0 else COLORS[7], height=0.8)
            axes.bar_label(bar, fmt="{:.2f}", padding=_GAP, fontsize="small")
            places.append(place)
            labels.append(f"{name}\n{group}" if len(groups) > 1 else name)
            place += 1.0
        place += 0.6
    axes.set_yticks(places, labels, fontsize="small")
    axes.invert_yaxis()
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    axes.set_xlim(right=1.2 * max(value for bars in groups.values() for value in bars.values()))


def _draw_curve(axes: Axes, phases: Sequence[Mapping[str, Any]]) -> None:
    axes.set_title("Masked-LM loss of the demo\n(less is better)", loc="left", fontsize="medium")
    for number, phase in enumerate(phases, 1):
        axes.plot(phase["samples"], phase["masked_lm_loss"], color=COLORS[0], linewidth=1.0, alpha=0.6)
        samples, losses = zip(*phase["evaluations"], strict=True)
        axes.plot(samples, losses, color=COLORS[1], linewidth=1.6, marker="o", markersize=4)
        axes.axvline(phase["samples"][0], color=INK, linestyle="dotted", linewidth=0.8)
        axes.annotate(
            f"phase {number}",
            (phase["samples"][0], 1.0),
            xycoords=axes.get_xaxis_transform(),
            xytext=(_GAP, 0),
            textcoords="offset points",
            fontsize="small",
            va="top",
        )
    axes.legend(axes.lines[:2], ["training", "held-out text"], loc="upper center", fontsize="small")
    axes.set_xlabel("sequences trained on", fontsize="small")
    axes.tick_params(labelsize="small")


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the picture."""
    parser = CommandParser(description="draw the picture of the README")
    add_settings(parser, FigureOptions)
    arguments = parser.parse_args(argv)
    if arguments.record is not None:
        write_json(CURVE_FILE, record_curve(arguments.record))
    content = draw(
        json.loads(VALUES_FILE.read_text(encoding="utf-8")), read_json(CURVE_FILE) if CURVE_FILE.exists() else None
    )
    make_folder(arguments.output_file.parent)
    with write_atomically(arguments.output_file) as file:
        file.write(content)
    print(arguments.output_file)
    return 0


if __name__ == "__main__":
    sys.exit(run_script(main))
