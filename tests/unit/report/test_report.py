"""The page on recorded runs, and the reading of their folders."""

from __future__ import annotations

import base64
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from bert_large.cli import main
from bert_large.errors import InputError
from bert_large.report.curves import CHARTS, COLORS, INK, INK_ON_DARK, condense, step_values
from bert_large.report.recorded_run import read_runs
from bert_large.report.report import PAGE_COLOR, PAGE_COLOR_ON_DARK

from tests.support.recorded_runs import HOSTILE_NAME, record_run


class Page(HTMLParser):
    """The elements and the text of a page."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, Any]]] = []
        self.text = ""
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.text += f"{data}\n"

    def pictures(self) -> list[dict[str, Any]]:
        return [attributes for tag, attributes in self.elements if tag == "img"]

    def svg_texts(self) -> list[str]:
        """Return the texts in the pictures, which must be well-formed."""
        texts = []
        for picture in self.pictures():
            svg = base64.b64decode(picture["src"].removeprefix("data:image/svg+xml;base64,"))
            texts += ["".join(element.itertext()) for element in ElementTree.fromstring(svg).iter()]
        return texts


def report(tmp_path: Path, *runs: Path, png_dir: Path | None = None) -> Page:
    page = tmp_path / "new" / "report.html"
    pictures = ["--png-dir", str(png_dir)] if png_dir else []
    assert main(["report", *map(str, runs), "--output-file", str(page), *pictures]) == 0
    return Page(page)


def test_page_of_two_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Charts with descriptions; metrics, settings, machine and times of each run; the written files are printed."""
    first = record_run(tmp_path / "a" / "out", restarts=[10])
    second = record_run(tmp_path / "b" / "out", precision="bf16")
    page = report(tmp_path, first, second, png_dir=tmp_path / "png")
    names = [chart.name for chart in CHARTS if chart.name != "skipped_updates"]
    assert capsys.readouterr().out.splitlines() == [
        str(tmp_path / "new" / "report.html"), *(str(tmp_path / "png" / f"{name}.png") for name in names)
    ]  # fmt: skip
    assert all((tmp_path / "png" / f"{name}.png").read_bytes().startswith(b"\x89PNG") for name in names)
    assert len(page.pictures()) == len(names)
    assert page.pictures()[0]["alt"] == (
        "Masked-LM loss (nats) over sequences trained on. "
        "a/out: 3 at the first step, 0.15 at the last, 2 in the last evaluation. "
        "b/out: 3 at the first step, 0.15 at the last, 2 in the last evaluation."
    )
    for text in ("all 20 steps done", "1: after step 10", "0.72", "bf16", "4.0 sentence/s", "2 threads"):
        assert text in page.text, text
    assert "computing 30.0 s (61.2%)" in page.text and "waiting for data 10.0 s (20.4%)" in page.text
    assert {"a/out: training", "a/out: restart", "b/out: evaluation", "target 0.72"} <= set(page.svg_texts())
    assert "b/out: restart" not in page.svg_texts()
    differing = re.findall(
        r'<tr class="differs"><th scope="row">(\S+)</th>', (tmp_path / "new/report.html").read_text()
    )
    assert differing == ["precision"]


def test_the_page_is_in_the_first_runs_folder_unless_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, other = record_run(tmp_path / "run"), record_run(tmp_path / "other")
    assert main(["report", str(run), str(other)]) == 0
    assert capsys.readouterr().out == f"{run / 'report.html'}\n"
    assert "masked-LM" in Page(run / "report.html").text


def test_page_loads_nothing_and_runs_no_scripts(tmp_path: Path) -> None:
    page = report(tmp_path, record_run(tmp_path / "run"))
    addresses = [
        value for _, attributes in page.elements for name, value in attributes.items() if name in ("src", "href")
    ]
    assert addresses and all(address.startswith("data:") for address in addresses)
    assert not {"script", "iframe", "object"} & {tag for tag, _ in page.elements}


def test_hostile_names_and_texts_are_text(tmp_path: Path) -> None:
    """In the page and in its pictures; formulas are not typeset, control characters and invalid bytes are replaced."""
    attack = "<script>alert(1)</script>"
    hostile = record_run(tmp_path / HOSTILE_NAME, precision=attack, engine=attack, ended=attack)
    page = report(tmp_path, hostile, record_run(tmp_path / "_hidden"))
    shown = HOSTILE_NAME.replace("\n", "\N{REPLACEMENT CHARACTER}").replace("\udcff", "\N{REPLACEMENT CHARACTER}")
    assert shown in page.text and page.text.count(attack) == 3
    assert "script" not in {tag for tag, _ in page.elements}
    assert len(page.pictures()) == len(CHARTS) - 1
    assert "_hidden: training" in page.svg_texts()
    assert any("$\\frac" in text for text in page.svg_texts())


def test_a_run_that_has_just_begun(tmp_path: Path) -> None:
    """It has only a row that is being written."""
    (tmp_path / "metrics.jsonl").write_text('{"event": "step", "st')
    page = report(tmp_path, tmp_path)
    assert "no steps yet." in page.pictures()[0]["alt"]
    assert "not yet, or was stopped" in page.text


def test_skipped_updates_get_a_chart_where_there_are_any(tmp_path: Path) -> None:
    """Values that were not finite are gaps."""
    run = record_run(tmp_path / "run", skipped_at=5)
    page = report(tmp_path, run)
    assert len(page.pictures()) == len(CHARTS)
    (recorded,) = read_runs([run])
    assert np.isnan(step_values(CHARTS[0], recorded)[4]) and np.isfinite(step_values(CHARTS[0], recorded)[5])


def test_the_record_of_a_run(tmp_path: Path) -> None:
    """The last start that trained, its restarts and target; a new run does not have the restarts of earlier ones."""
    run = record_run(tmp_path / "run", restarts=[4, 4, 12])
    log = run / "train.log"
    before = "2026-11-01 00:00:00 resuming after step 3 from x\n"
    after = "2026-11-02 00:00:00 bert-large 9\n2026-11-02 00:00:00 nothing to do: the run has ended\n"
    log.write_text(before + log.read_text() + after)
    (recorded,) = read_runs([run])
    assert recorded.restarts == [4, 4, 12]
    assert recorded.target_accuracy == 0.72
    assert recorded.start_lines[0] == "bert-large 0.1.0, torch 2, Python 3; 1 rank, 2 threads"
    assert not any(line.startswith("step ") for line in recorded.start_lines)
    assert recorded.settings["model.hidden_size"] == 128
    assert recorded.ended == "all 20 steps done"


@pytest.mark.parametrize(
    ("later", "ended"),
    [
        ([], "all 20 steps done"),
        (["bert-large 9", "nothing to do: the run has ended"], "all 20 steps done"),
        (["bert-large 9", "resuming after step 20 from x", "step 21/40 loss 3.0"], None),
        (["resuming after step 20 from x", "training ended: stopped by SIGTERM"], None),
        (["resuming after step 20 from x", "training ended: all 20 steps done"], "all 20 steps done"),
    ],
)
def test_the_end_of_a_run_that_was_extended(later: list[str], ended: str | None, tmp_path: Path) -> None:
    """`ended.json` of an earlier end stays until the run ends again."""
    run = record_run(tmp_path / "run")
    with (run / "train.log").open("a") as log:
        log.writelines(f"2026-11-02 00:00:00 {line}\n" for line in later)
    assert read_runs([run])[0].ended == ended


def test_a_folder_given_twice_is_one_run(tmp_path: Path) -> None:
    run = record_run(tmp_path / "run")
    assert [run.label for run in read_runs([run, tmp_path / "x" / ".." / "run"])] == ["run"]


@pytest.mark.parametrize(("text", "target"), [("0.72", 0.72), ("1e-05", 1e-05), ("0.7.2", 0.7), ("-e.", None)])
def test_the_target_is_read_from_the_log(tmp_path: Path, text: str, target: float | None) -> None:
    """A damaged one is not an error: the log is only information."""
    log = record_run(tmp_path / "run") / "train.log"
    log.write_text(log.read_text().replace("target_accuracy 0.72", f"target_accuracy {text}"))
    assert read_runs([log.parent])[0].target_accuracy == target


def test_a_folder_without_metrics_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path / "nothing"), "--output-file", str(tmp_path / "report.html")]) == 2
    assert str(tmp_path / "nothing" / "metrics.jsonl") in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--output-file", "."], "--output-file . "),
        (["--output-file", "file/report.html"], " file "),
        (["--png-dir", "file"], " file "),
    ],
)
def test_outputs_that_cannot_be_written(
    options: list[str], named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = record_run(tmp_path / "run")
    (tmp_path / "file").write_text("")
    monkeypatch.chdir(tmp_path)
    assert main(["report", str(run), *options]) == 2
    assert named in capsys.readouterr().err


@pytest.mark.parametrize(("name", "content"), [("run.json", "{"), ("ended.json", "[]"), ("results.yaml", "a: [")])
def test_a_damaged_file_is_named(tmp_path: Path, name: str, content: str) -> None:
    run = record_run(tmp_path / "run")
    (run / name).write_text(content)
    with pytest.raises(InputError, match=name):
        read_runs([run])


def test_long_runs_are_condensed() -> None:
    """Blocks of one size, the last one shorter; gaps are ignored."""
    values = np.arange(700.0)
    values[1] = math.nan
    means, minima, maxima = condense(values)
    assert len(means) == 234
    assert (means[0], minima[0], maxima[0]) == (1.0, 0.0, 2.0)
    assert (means[-1], maxima[-1]) == (699.0, 699.0)
    short = condense(np.array([1.0, 2.0]))
    assert all(line.tolist() == [1.0, 2.0] for line in short)


def contrast(one: str, other: str) -> float:
    """Return the contrast ratio of two colors as defined by WCAG 2.1."""

    def luminance(color: str) -> float:
        shares = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
        return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def test_colors_stand_out_from_light_and_dark_pages() -> None:
    """WCAG requires 3 for graphics, and 7 for text at its stricter level."""
    for page in (PAGE_COLOR, PAGE_COLOR_ON_DARK):
        assert all(contrast(color, page) >= 3 for color in COLORS), page
    assert contrast(INK, PAGE_COLOR) >= 7 and contrast(INK_ON_DARK, PAGE_COLOR_ON_DARK) >= 7


def test_results_of_runs_that_differ_in_settings(tmp_path: Path) -> None:
    """A setting that a run does not have is shown as none."""
    run, other = record_run(tmp_path / "run"), record_run(tmp_path / "other")
    identity = json.loads((other / "run.json").read_text())
    del identity["precision"]
    (other / "run.json").write_text(json.dumps(identity))
    rows = report(tmp_path, run, other).text.split("Bold: the runs differ.")[1]
    assert rows.split()[:2] == ["run", "other"] and rows.split()[2:5] == ["precision", "fp32", "none"]
