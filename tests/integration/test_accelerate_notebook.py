"""notebooks/accelerate.ipynb, executed on a tiny model."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from tests.support.finetune import write_model
from tests.support.runs import PROJECT

NOTEBOOK = PROJECT / "notebooks" / "accelerate.ipynb"


def test_outputs_are_cleared() -> None:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in cells)


@pytest.mark.slow
def test_outputs_and_speed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The outputs agree before and after, and each comparison prints a ratio."""
    model = write_model(tmp_path / "model_save", hidden_dropout_prob=0.0, initializer_range=0.2)
    monkeypatch.setenv("MODEL_DIR", str(model))
    monkeypatch.setenv("ROUNDS", "3")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(NOTEBOOK.parent)}}).execute()
    outputs: list[Any] = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    printed = "".join(output["text"] for output in outputs if output.get("name") == "stdout")
    (difference,) = re.findall(r"difference of the logits: (\S+)", printed)
    assert 0 <= float(difference) < 1e-5
    assert len(re.findall(r"speed-up: (?:unsteady, )?\d", printed)) == 3
    assert "restored: True" in printed
