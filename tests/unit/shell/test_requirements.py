"""docker/requirements-*.txt: the locked packages satisfy pyproject.toml, and each has its hashes."""

from __future__ import annotations

import re

import pytest
from packaging.requirements import Requirement

from .sandbox import PROJECT


def packages(name: str) -> dict[str, str]:
    """Return the packages and versions of a lock; each must have a hash."""
    lock = (PROJECT / f"docker/requirements-{name}.txt").read_text()
    locked = dict(re.findall(r"^(\S+)==(\S+)(?: \\\n    --hash=sha256:[0-9a-f]{64})+", lock, re.MULTILINE))
    assert len(locked) == lock.count("==")
    return locked


@pytest.mark.parametrize("base", ["ipex", "stock"])
def test_the_locks_satisfy_the_package(base: str) -> None:
    """The lock of a base has the dependencies; together with the lock of fine-tuning it has the extra's."""
    base_packages = packages(base)
    finetune_packages = packages("finetune")
    check_needs(base_packages, "dependencies", "mlperf")
    check_needs(base_packages | finetune_packages, "finetune")
    for name in base_packages.keys() & finetune_packages.keys():
        assert base_packages[name] == finetune_packages[name], name
    assert not {name for name in finetune_packages if name.startswith(("torch", "triton", "nvidia", "cuda"))}


def check_needs(locked: dict[str, str], *lists: str) -> None:
    """Fail unless every package in these lists of pyproject.toml is locked in a version that they allow."""
    project = (PROJECT / "pyproject.toml").read_text()
    for name in lists:
        wanted = project.split(f"\n{name} = [")[1].split("]\n")[0]
        for text in re.findall('"([^"]+)"', wanted):
            requirement = Requirement(text)
            if requirement.name != "torch":
                assert requirement.specifier.contains(locked[requirement.name.lower()]), text
