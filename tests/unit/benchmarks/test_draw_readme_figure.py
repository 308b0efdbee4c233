"""The picture of the README: the thinned curve of a demo, and an SVG that shows every recorded value."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import draw_readme_figure
import pytest

from tests.support.recorded_runs import record_run


def test_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for phase in ("phase1", "phase2"):
        record_run(tmp_path / "demo" / phase)
    monkeypatch.setattr(draw_readme_figure, "CURVE_FILE", tmp_path / "curve.json")
    picture = tmp_path / "images" / "picture.svg"
    assert draw_readme_figure.main(["--record", str(tmp_path / "demo"), "--output-file", str(picture)]) == 0
    first, second = json.loads((tmp_path / "curve.json").read_text())["phases"]
    assert len(first["samples"]) == len(first["masked_lm_loss"]) == 20
    assert second["samples"][0] == first["samples"][-1] + first["samples"][0]  # phase 2 follows phase 1
    texts = {text.strip() for element in ElementTree.parse(picture).iter() for text in element.itertext()}
    values = json.loads(draw_readme_figure.VALUES_FILE.read_text())
    for name in ("throughput", "encoder"):
        for bars in values[name]["groups"].values():
            assert {f"{value:.2f}" for value in bars.values()} <= texts
    assert {"phase 1", "phase 2", "training", "held-out text"} <= texts


def test_every_value_has_a_source() -> None:
    for entry in json.loads(draw_readme_figure.VALUES_FILE.read_text()).values():
        assert entry["date"] and entry["machine"] and entry["source"] and entry["commands"] and entry["groups"]
