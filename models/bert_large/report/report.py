"""The values of the report's page; page.html.j2 lays them out. The page needs no network and has no scripts."""

from __future__ import annotations

import base64
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from bert_large import __version__
from bert_large.observe.metrics import mean
from bert_large.report.curves import CHARTS, COLORS, INK, INK_ON_DARK, Chart, as_png, as_svg, draw, step_values
from bert_large.report.recorded_run import RecordedRun
from bert_large.storage.atomic import write_atomically
from bert_large.storage.output_folder import make_folder

PAGE_COLOR, PAGE_COLOR_ON_DARK = "#ffffff", "#14181d"
_TEMPLATES = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined)


def write_report(runs: Sequence[RecordedRun], page: Path, picture_dir: Path | None) -> list[Path]:
    """Write the page, and a PNG of each chart into `picture_dir`; return the files written."""
    png: dict[Path, bytes] = {}
    pictures = []
    for chart in _charts_with_values(runs):
        figure = draw(chart, runs)
        svg = base64.b64encode(as_svg(figure)).decode()
        pictures.append({"svg": svg, "description": _describe(chart, runs)})
        if picture_dir is not None:
            png[picture_dir / f"{chart.name}.png"] = as_png(figure)
    written = {page: render_page(runs, pictures).encode(errors="replace"), **png}
    for path in written:
        make_folder(path.parent)
    for path, content in written.items():
        with write_atomically(path) as file:
            file.write(content)
    return list(written)


def render_page(runs: Sequence[RecordedRun], pictures: Sequence[Mapping[str, str]]) -> str:
    """Return the page's HTML; a picture has the keys `svg`, in Base64, and `description`."""
    return _TEMPLATES.get_template("page.html.j2").render(
        version=__version__, page_color=PAGE_COLOR, page_color_on_dark=PAGE_COLOR_ON_DARK, ink=INK,
        ink_on_dark=INK_ON_DARK, colors=COLORS, runs=runs, pictures=pictures, summary=_summary(runs),
        times_of_runs=[_times(run) for run in runs], settings=_by_name(run.settings for run in runs),
    )  # fmt: skip


def _charts_with_values(runs: Sequence[RecordedRun]) -> list[Chart]:
    """Return the charts that have values, that of skipped updates only if there were any."""
    return [
        chart
        for chart in CHARTS
        if (chart.name != "skipped_updates" or any(_skipped_updates(run) != "0" for run in runs))
        and not all(run.steps and np.isnan(step_values(chart, run)).all() for run in runs)
    ]


def _describe(chart: Chart, runs: Sequence[RecordedRun]) -> str:
    """Return the text of a chart for readers who cannot see it."""
    courses = " ".join(_course(chart, run) for run in runs)
    return f"{chart.title} ({chart.unit}) over sequences trained on. {courses}"


def _course(chart: Chart, run: RecordedRun) -> str:
    values = step_values(chart, run)
    values = values[np.isfinite(values)]
    if not len(values):
        return f"{run.label}: {'no values' if run.steps else 'no steps yet'}."
    text = f"{run.label}: {values[0]:.4g} at the first step, {values[-1]:.4g} at the last"
    evaluated = [row[chart.name] for row in run.evaluations if row.get(chart.name) is not None]
    if chart.is_evaluated and evaluated:
        text += f", {evaluated[-1]:.4g} in the last evaluation"
    return f"{text}."


def _summary(runs: Sequence[RecordedRun]) -> dict[str, list[str]]:
    """Return the rows of the first table: a value per run."""
    results = _by_name(run.results for run in runs)
    return {
        "ended": [run.ended or "not yet, or was stopped" for run in runs],
        "steps": [f"{run.steps[-1]['step']:,}" if run.steps else "0" for run in runs],
        "sequences": [f"{run.steps[-1]['samples']:,}" if run.steps else "0" for run in runs],
        "last step's masked-LM loss": [_last(run.steps, "masked_lm_loss") for run in runs],
        "last evaluation's masked-LM accuracy": [_last(run.evaluations, "masked_lm_accuracy") for run in runs],
        "target accuracy": [_text(run.target_accuracy) for run in runs],
        "median sequences/s": [_median(run, "sequences_per_second") for run in runs],
        "median tokens/s": [_median(run, "tokens_per_second") for run in runs],
        "restarts": [_restarts(run) for run in runs],
        "skipped updates": [_skipped_updates(run) for run in runs],
        **{f"results.yaml: {name}": values for name, values in results.items()},
        "folder": [str(run.folder) for run in runs],
    }


def _by_name(values: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return a row per name in any of `values`: a value per run, `none` for a run without it."""
    values = list(values)
    names = dict.fromkeys(name for of_run in values for name in of_run)
    return {name: [_text(of_run.get(name)) for of_run in values] for name in names}


def _times(run: RecordedRun) -> list[dict[str, Any]]:
    """Return the shares of the measured time, which does not include saving checkpoints and starting."""
    waiting = _sum(run.steps, "data_seconds")
    seconds = {
        "computing": _sum(run.steps, "seconds") - waiting,
        "waiting for data": waiting,
        "evaluating": _sum(run.evaluations, "seconds"),
    }
    total = sum(seconds.values())
    return [
        {"name": name, "seconds": part, "percent": 100 * mean(part, total), "color": color}
        for (name, part), color in zip(seconds.items(), COLORS, strict=False)
    ]


def _last(rows: Sequence[Mapping[str, Any]], name: str) -> str:
    values = [row[name] for row in rows if row.get(name) is not None]
    return f"{values[-1]:.4f}" if values else "none"


def _sum(rows: Sequence[Mapping[str, Any]], name: str) -> float:
    return sum(row[name] or 0.0 for row in rows)


def _median(run: RecordedRun, name: str) -> str:
    values = [row[name] for row in run.steps if row.get(name) is not None]
    return f"{statistics.median(values):,.1f}" if values else "none"


def _restarts(run: RecordedRun) -> str:
    places = ", ".join(f"{step:,}" for step in run.restarts)
    return f"{len(run.restarts)}: after step {places}" if run.restarts else "0"


def _skipped_updates(run: RecordedRun) -> str:
    return str(run.steps[-1].get("skipped_updates", 0)) if run.steps else "0"


def _text(value: Any) -> str:
    return "none" if value is None else str(value)
