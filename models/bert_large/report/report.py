"""Runs on one HTML page that needs nothing else: no network, no script."""

from __future__ import annotations

import base64
import statistics
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from bert_large import __version__
from bert_large.observe.metrics import mean
from bert_large.report.curves import CHARTS, COLORS, Chart, as_png, as_svg, draw, step_values
from bert_large.report.recorded_run import RecordedRun
from bert_large.storage.atomic import write_atomically

PAGE_COLOR, PAGE_COLOR_ON_DARK = "#ffffff", "#14181d"
_STYLE = f"""
:root {{ color-scheme: light dark; --page: {PAGE_COLOR}; --ink: #24292f; --soft: #57606a; --line: #d0d7de;
  --shade: #f3f5f8 }}
@media (prefers-color-scheme: dark) {{ :root {{ --page: {PAGE_COLOR_ON_DARK}; --ink: #e6edf3; --soft: #9aa5b1;
  --line: #333b45; --shade: #1d232b }} }}
* {{ box-sizing: border-box }}
body {{ margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 88rem; background: var(--page); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif }}
h1 {{ font-size: 1.6rem; margin: 0 }} h2 {{ font-size: 1.2rem; margin: 2.2rem 0 .6rem }}
p, footer {{ color: var(--soft); margin: .3rem 0 }}
.scroll {{ overflow-x: auto }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums }}
th, td {{ padding: .3rem .9rem .3rem 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top;
  min-width: 8rem; max-width: 26rem; overflow-wrap: anywhere }}
tbody th {{ font-weight: 400; color: var(--soft) }}
tr.differs td {{ font-weight: 600 }}
.name {{ overflow-wrap: anywhere }}
.swatch {{ display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin-right: .45em }}
.charts {{ display: grid; gap: 1.2rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 25rem), 1fr)) }}
.charts img {{ display: block; width: 100%; height: auto }}
.bar {{ display: flex; height: 1rem; margin: .2rem 0 .8rem; border-radius: 3px; overflow: hidden }}
details {{ margin: .5rem 0 }} summary {{ cursor: pointer; overflow-wrap: anywhere }}
pre {{ background: var(--shade); padding: .8rem; overflow-x: auto; white-space: pre-wrap; overflow-wrap: anywhere;
  font-size: .82rem }}
"""


def write_report(runs: Sequence[RecordedRun], page: Path, picture_dir: Path | None) -> list[Path]:
    """Write the page, and a PNG of each chart into `picture_dir`; return what was written."""
    pictures: dict[Path, bytes] = {}
    figures = []
    for chart in _charts_with_values(runs):
        figure = draw(chart, runs)
        address = f"data:image/svg+xml;base64,{base64.b64encode(as_svg(figure)).decode()}"
        figures.append(f'<img src="{address}" width="403" height="288" alt="{escape(_describe(chart, runs))}">')
        if picture_dir is not None:
            pictures[picture_dir / f"{chart.name}.png"] = as_png(figure)
    written = {page: _page(runs, figures).encode(errors="replace"), **pictures}
    for path, content in written.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        with write_atomically(path) as file:
            file.write(content)
    return list(written)


def _charts_with_values(runs: Sequence[RecordedRun]) -> list[Chart]:
    """Return the charts worth a look: that of skipped updates, of next sentences, only where there were any."""
    return [
        chart
        for chart in CHARTS
        if (chart.name != "skipped_updates" or any(_skipped_updates(run) != "0" for run in runs))
        and not all(run.steps and np.isnan(step_values(chart, run)).all() for run in runs)
    ]


def _describe(chart: Chart, runs: Sequence[RecordedRun]) -> str:
    """Return what who cannot see a chart should know of it."""
    courses = " ".join(_course(chart, run) for run in runs)
    return f"{chart.title} ({chart.unit}) over sequences trained on. {courses}"


def _course(chart: Chart, run: RecordedRun) -> str:
    values = step_values(chart, run)
    values = values[np.isfinite(values)]
    if not len(values):
        return f"{run.label}: {'no figures' if run.steps else 'no steps yet'}."
    text = f"{run.label}: {values[0]:.4g} at the first step, {values[-1]:.4g} at the last"
    evaluated = [row[chart.name] for row in run.evaluations if row.get(chart.name) is not None]
    if chart.is_evaluated and evaluated:
        text += f", {evaluated[-1]:.4g} in the last evaluation"
    return f"{text}."


def _page(runs: Sequence[RecordedRun], figures: Iterable[str]) -> str:
    title = f"{', '.join(run.label for run in runs)}: BERT pretraining"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<link rel="icon" href="data:,">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<header><h1>BERT pretraining</h1></header>
<main>
{_summary(runs)}
<h2>Curves</h2>
<p>Lines are means of consecutive steps, shades their lowest and highest; dotted verticals are restarts.</p>
<div class="charts">
{"".join(figures)}
</div>
<h2>Where the time went</h2>
{"".join(map(_times, runs))}
<h2>Settings</h2>
{_settings(runs)}
<h2>Machine, data and versions</h2>
{"".join(_start(number, run) for number, run in enumerate(runs))}
</main>
<footer>bert-large {escape(__version__)}</footer>
</body>
</html>
"""


def _summary(runs: Sequence[RecordedRun]) -> str:
    rows = {
        "ended": [run.ended or "not yet, or was stopped" for run in runs],
        "steps": [f"{run.steps[-1]['step']:,}" if run.steps else "0" for run in runs],
        "sequences": [f"{run.steps[-1]['samples']:,}" if run.steps else "0" for run in runs],
        "last step's masked-LM loss": [_last(run.steps, "masked_lm_loss") for run in runs],
        "last evaluation's masked-LM accuracy": [_last(run.evaluations, "masked_lm_accuracy") for run in runs],
        "target accuracy": [_or_none(run.target_accuracy) for run in runs],
        "median sequences/s": [_median(run, "sequences_per_second") for run in runs],
        "median tokens/s": [_median(run, "tokens_per_second") for run in runs],
        "restarts": [_restarts(run) for run in runs],
        "skipped updates": [_skipped_updates(run) for run in runs],
        **_by_name("results.yaml: ", [run.results for run in runs]),
        "folder": [str(run.folder) for run in runs],
    }
    return _table(runs, rows, mark_differences=False)


def _settings(runs: Sequence[RecordedRun]) -> str:
    rows = _by_name("", [run.settings for run in runs])
    if not rows:
        return "<p>run.json is not there yet, or this is a benchmark, which leaves none.</p>"
    note = "<p>Bold: where the runs differ.</p>" if len(runs) > 1 else ""
    return note + _table(runs, rows, mark_differences=True)


def _by_name(prefix: str, values: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    names = dict.fromkeys(name for of_run in values for name in of_run)
    return {f"{prefix}{name}": [_or_none(of_run.get(name)) for of_run in values] for name in names}


def _table(runs: Sequence[RecordedRun], rows: Mapping[str, Sequence[str]], *, mark_differences: bool) -> str:
    """Return a table with a column per run."""
    header = "".join(f'<th scope="col">{_named(number, run)}</th>' for number, run in enumerate(runs))
    body = []
    for name, values in rows.items():
        differs = ' class="differs"' if mark_differences and len(set(values)) > 1 else ""
        cells = "".join(f"<td>{escape(value)}</td>" for value in values)
        body.append(f'<tr{differs}><th scope="row">{escape(name)}</th>{cells}</tr>')
    return (
        f'<div class="scroll"><table><thead><tr><td></td>{header}</tr></thead>\n'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _times(run: RecordedRun) -> str:
    """Return how the measured time is shared: saving checkpoints and starting are not in it."""
    waiting = _sum(run.steps, "data_seconds")
    parts = {
        "computing": (_sum(run.steps, "seconds") - waiting, COLORS[0]),
        "waiting for data": (waiting, COLORS[1]),
        "evaluating": (_sum(run.evaluations, "seconds"), COLORS[2]),
    }
    total = sum(seconds for seconds, _ in parts.values())
    shares = {name: 100 * mean(seconds, total) for name, (seconds, _) in parts.items()}
    text = "; ".join(
        f'<span class="swatch" style="background:{color}"></span>{name} {seconds:,.1f} s ({shares[name]:.1f}%)'
        for name, (seconds, color) in parts.items()
    )
    bar = "".join(
        f'<span style="background:{color};width:{shares[name]:.2f}%"></span>' for name, (_, color) in parts.items()
    )
    return f'<div class="name">{escape(run.label)}: {text}</div><div class="bar" aria-hidden="true">{bar}</div>'


def _start(number: int, run: RecordedRun) -> str:
    lines = "\n".join(run.start_lines) or "train.log does not tell."
    return f"<details open><summary>{_named(number, run)}</summary><pre>{escape(lines)}</pre></details>"


def _named(number: int, run: RecordedRun) -> str:
    color = COLORS[number % len(COLORS)]
    return f'<span class="swatch" style="background:{color}"></span>{escape(run.label)}'


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


def _or_none(value: Any) -> str:
    return "none" if value is None else str(value)
