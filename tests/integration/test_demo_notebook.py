"""notebooks/demo.ipynb, executed on the demo's outputs."""

from __future__ import annotations

import json
import re
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from tests.integration.conftest import Demo
from tests.support.runs import PROJECT

NOTEBOOK = PROJECT / "notebooks" / "demo.ipynb"


def test_outputs_are_cleared() -> None:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in cells)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_curves_and_masked_words(demo: Demo, monkeypatch: pytest.MonkeyPatch) -> None:
    """The notebook uses an existing demo instead of training again, draws its curves and predicts masked words."""
    monkeypatch.setenv("DEMO_DIR", str(demo.folder))
    trained = (demo.folder / "phase2" / "ended.json").stat().st_mtime_ns
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": str(NOTEBOOK.parent)}}).execute()
    outputs: list[Any] = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    printed = "".join(output["text"] for output in outputs if output["output_type"] == "stream")
    assert f"using the demo in {demo.folder}" in printed
    assert (demo.folder / "phase2" / "ended.json").stat().st_mtime_ns == trained
    accuracy, baseline = map(float, re.findall(r"held-out text: ([\d.]+), most frequent token: ([\d.]+)", printed)[0])
    assert accuracy > 1.5 * baseline > 0
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 1
    assert len(re.findall(r"^    \S+ \(0\.\d\d\), \S+ \(0\.\d\d\), \S+ \(0\.\d\d\)$", printed, re.MULTILINE)) == 3
