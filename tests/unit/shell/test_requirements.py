"""docker/requirements-*.txt: the locked packages are what pyproject.toml asks for, each with its hashes."""

from __future__ import annotations

import re

import pytest
from packaging.requirements import Requirement

from .sandbox import PROJECT


@pytest.mark.parametrize("base", ["ipex", "stock"])
def test_the_lock_has_all_that_the_package_needs(base: str) -> None:
    lock = (PROJECT / f"docker/requirements-{base}.txt").read_text()
    locked = dict(re.findall(r"^(\S+)==(\S+)(?: \\\n    --hash=sha256:[0-9a-f]{64})+", lock, re.MULTILINE))
    assert len(locked) == lock.count("==")  # each has a hash
    project = (PROJECT / "pyproject.toml").read_text()
    for name in ("dependencies", "mlperf"):
        wanted = project.split(f"\n{name} = [")[1].split("]\n")[0]
        for text in re.findall('"([^"]+)"', wanted):
            requirement = Requirement(text)
            if requirement.name != "torch":
                assert requirement.specifier.contains(locked[requirement.name.lower()]), text
