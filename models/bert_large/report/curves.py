"""Charts of runs over the sequences trained on, drawn with matplotlib."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bert_large.extras import import_extra
from bert_large.report.recorded_run import RecordedRun

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    Legend = dict[str, Artist]

INK, INK_ON_DARK = "#24292f", "#e6edf3"
COLORS = ("#1a7fc4", "#d4561a", "#12875f", "#b3529b", "#8f7317", "#cf4250", "#6b6fd6", "#78828c")
"""Colors of the runs, in turn. All contrast with a light and with a dark background."""
_DASHES = ("solid", "dashed", "dashdot", "dotted")
_MARKERS = "osD^vP"
_MAX_POINTS = 300
_LABEL_LENGTH = 32


@dataclass(frozen=True, kw_only=True)
class Chart:
    """One metric of the steps, and of the evaluations if they have it."""

    name: str
    title: str
    unit: str
    of_step: Callable[[dict[str, Any]], Any]
    """Returns the value from a row of `metrics.jsonl`, or None."""
    is_evaluated: bool = False
    from_zero: bool = False
    logarithmic: bool = False


def _data_wait(row: dict[str, Any]) -> float | None:
    return 100 * row["data_seconds"] / row["seconds"] if row.get("seconds") else None


def _chart(name: str, title: str, unit: str, **options: Any) -> Chart:
    return Chart(name=name, title=title, unit=unit, **{"of_step": lambda row: row.get(name), **options})


CHARTS = (
    _chart("masked_lm_loss", "Masked-LM loss", "nats", is_evaluated=True),
    _chart("masked_lm_accuracy", "Masked-LM accuracy", "share of masked tokens", is_evaluated=True),
    _chart("next_sentence_loss", "Next-sentence loss", "nats", is_evaluated=True),
    _chart("next_sentence_accuracy", "Next-sentence accuracy", "share of sequences", is_evaluated=True),
    _chart("learning_rate", "Learning rate", "rate", from_zero=True),
    _chart("gradient_norm", "Gradient norm before clipping", "norm, logarithmic", logarithmic=True),
    _chart("sequences_per_second", "Throughput in sequences", "sequences/s", from_zero=True),
    _chart("tokens_per_second", "Throughput in tokens", "real tokens/s", from_zero=True),
    _chart("data_wait", "Waiting for data", "% of a step's time", of_step=_data_wait, from_zero=True),
    _chart("skipped_updates", "Skipped updates so far", "steps without an update", from_zero=True),
)


def step_values(chart: Chart, run: RecordedRun) -> np.ndarray:
    """Return a chart's value at every step, NaN where it was not finite: float64 [steps]."""
    return np.array([_number(chart.of_step(row)) for row in run.steps], dtype=np.float64)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def condense(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return means, minima and maxima of at most 300 blocks of consecutive values, ignoring NaN."""
    size = max(1, math.ceil(len(values) / _MAX_POINTS))
    blocks = np.pad(values, (0, -len(values) % size), constant_values=math.nan).reshape(-1, size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a block of only NaN
        return np.nanmean(blocks, axis=1), np.nanmin(blocks, axis=1), np.nanmax(blocks, axis=1)


def draw(chart: Chart, runs: Sequence[RecordedRun]) -> Figure:
    """Draw one chart of all runs; raises `InputError` without matplotlib."""
    with drawing_style():
        from matplotlib.figure import Figure
        from matplotlib.ticker import EngFormatter, FuncFormatter, NullFormatter

        figure = Figure(figsize=(5.6, 4.0), layout="constrained")
        axes = figure.subplots()
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.15)
        axes.set_title(chart.title, loc="left")
        axes.set_xlabel("sequences trained on")
        axes.set_ylabel(chart.unit)
        if chart.logarithmic:
            axes.set_yscale("log", nonpositive="mask")
        legend: Legend = {}
        for number, run in enumerate(runs):
            _draw_run(axes, chart, run, number, legend)
        if chart.name == "masked_lm_accuracy":
            _draw_levels(axes, runs, legend)
        if chart.from_zero:
            axes.set_ylim(bottom=0)
        thousands = EngFormatter(sep="")
        plain = FuncFormatter(lambda value, place: thousands(value) if value >= 1000 else f"{value:g}")
        axes.xaxis.set_major_formatter(thousands)
        axes.yaxis.set_major_formatter(plain)
        bottom, top = axes.get_ylim()
        within_a_decade = axes.get_yscale() == "log" and top < 10 * bottom
        axes.yaxis.set_minor_formatter(plain if within_a_decade else NullFormatter())
        _draw_legend(figure, legend)
        return figure


def as_svg(figure: Figure) -> bytes:
    """Return an SVG for light and dark pages: text and axes follow the reader's color scheme."""
    svg = _save(figure, "svg", transparent=True, metadata={"Date": None}).decode()
    style = f"<style>svg{{color:{INK}}}@media(prefers-color-scheme:dark){{svg{{color:{INK_ON_DARK}}}}}</style>"
    return re.sub(r"(<svg\b[^>]*>)", rf"\1{style}", svg.replace(INK, "currentColor"), count=1).encode()


def as_png(figure: Figure) -> bytes:
    """Return a PNG with a white background."""
    return _save(figure, "png", dpi=150)


def _save(figure: Figure, kind: str, **options: Any) -> bytes:
    content = io.BytesIO()
    with drawing_style(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # matplotlib's font may lack the characters of a label
        figure.savefig(content, format=kind, **options)
    return content.getvalue()


@contextmanager
def drawing_style() -> Iterator[None]:
    """Set matplotlib's style for all charts; raises `InputError` without matplotlib."""
    matplotlib = import_extra("drawing", "plot", "matplotlib")
    inked = ("axes.edgecolor", "axes.labelcolor", "text.color", "xtick.color", "ytick.color", "grid.color")
    style: dict[Any, Any] = {
        **dict.fromkeys(inked, INK),
        "legend.frameon": False,
        "svg.fonttype": "none",
        "svg.hashsalt": "bert-large",  # makes pictures reproducible
        "text.parse_math": False,  # the name of a run may contain $
    }
    with matplotlib.rc_context(style):
        yield


def _draw_run(axes: Axes, chart: Chart, run: RecordedRun, number: int, legend: Legend) -> None:
    color, label = COLORS[number % len(COLORS)], _shorten(run.label)
    dashes = _DASHES[number // len(COLORS) % len(_DASHES)]
    if run.steps:
        samples, _, _ = condense(np.array([row["samples"] for row in run.steps], dtype=np.float64))
        means, minima, maxima = condense(step_values(chart, run))
        (legend[f"{label}: training"],) = axes.plot(samples, means, color=color, linestyle=dashes, linewidth=1.2)
        axes.fill_between(samples, minima, maxima, color=color, alpha=0.2, linewidth=0)
        sequences_per_step = run.steps[-1]["samples"] / run.steps[-1]["step"]
        for step in dict.fromkeys(run.restarts):
            place = step * sequences_per_step
            legend[f"{label}: restart"] = axes.axvline(place, color=color, linestyle="dotted", linewidth=1.2)
    if chart.is_evaluated and run.evaluations:
        (legend[f"{label}: evaluation"],) = axes.plot(
            [row["samples"] for row in run.evaluations],
            [_number(row.get(chart.name)) for row in run.evaluations],
            color=color, linestyle=dashes, linewidth=1.6,
            marker=_MARKERS[number % len(_MARKERS)], markersize=5, markeredgecolor=INK, markeredgewidth=0.6,
        )  # fmt: skip


def _draw_levels(axes: Axes, runs: Sequence[RecordedRun], legend: Legend) -> None:
    """Draw the target accuracies, and the accuracy of always guessing the most frequent token."""
    for target in sorted({run.target_accuracy for run in runs if run.target_accuracy is not None}):
        legend[f"target {target:g}"] = axes.axhline(target, color=INK, linestyle="dashed", linewidth=1.2)
    guesses = {row.get("most_frequent_token_accuracy") for run in runs for row in run.evaluations[-1:]}
    for guess in sorted(guess for guess in guesses if guess is not None):
        legend[f"most frequent token {guess:.3g}"] = axes.axhline(guess, color=INK, linestyle="dashdot", linewidth=0.8)


def _draw_legend(figure: Figure, legend: Legend) -> None:
    places = [str(number) for number in range(len(legend))]  # matplotlib drops labels that begin with "_"
    drawn = figure.legend(list(legend.values()), places, loc="outside lower left", ncols=2, fontsize="small")
    for text, label in zip(drawn.get_texts(), legend, strict=True):
        text.set_text(label)


def _shorten(label: str) -> str:
    return label if len(label) <= _LABEL_LENGTH else f"…{label[1 - _LABEL_LENGTH :]}"
