"""The notices of third-party software."""

from __future__ import annotations

import re

from .sandbox import PROJECT


def test_every_dependency_is_in_the_notices() -> None:
    project = (PROJECT / "pyproject.toml").read_text()
    used = "".join(
        project.split(f"{name} = [")[1].split("]\n")[0]
        for name in ("dependencies", "bench", "mlperf", "notebook", "onnx", "plot")
    )
    names = set(re.findall(r'"([A-Za-z0-9-]+)[<>=]', used))
    listed = set(re.findall(r"^  (\S+)  ", (PROJECT / "licenses/third_party.txt").read_text(), re.MULTILINE))
    assert "torch" in names
    assert names == listed
