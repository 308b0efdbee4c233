"""Loss curves as a picture."""

from __future__ import annotations

from pathlib import Path

import pytest
from bert_large.cli import main
from bert_large.observe.metrics import MetricsWriter

from tests.unit.observe.test_metrics import EVALUATION, step_figures


def make_run(folder: Path) -> str:
    folder.mkdir()
    writer = MetricsWriter(folder, 0)
    for step in range(1, 4):
        writer.step(step_figures(step))
    writer.evaluation(3, 24, EVALUATION)
    writer.close()
    return str(folder)


def test_curves_of_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A PNG, labelled by folder; the command prints where it is."""
    picture = tmp_path / "new" / "curves.png"
    assert main(["plot", make_run(tmp_path / "a"), make_run(tmp_path / "b"), "--output-file", str(picture)]) == 0
    assert capsys.readouterr().out == f"{picture}\n"
    content = picture.read_bytes()
    assert content.startswith(b"\x89PNG") and len(content) > 10_000


def test_a_folder_without_metrics_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plot", str(tmp_path / "nothing"), "--output-file", str(tmp_path / "curves.png")]) == 2
    assert f"{tmp_path / 'nothing' / 'metrics.jsonl'} does not exist" in capsys.readouterr().err
