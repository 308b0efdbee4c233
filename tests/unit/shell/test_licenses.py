"""The notices of third-party software."""

from __future__ import annotations

import re

from .sandbox import PROJECT

_TOOLS = {"audit", "fuzz", "test"}
"""Extras of developers, which the package does not use."""


def listed() -> set[str]:
    notices = (PROJECT / "licenses/third_party.txt").read_text()
    return {name.lower() for name in re.findall(r"^  (\S+)  ", notices, re.MULTILINE)}


def used_by_the_package() -> set[str]:
    """Return the dependencies in `pyproject.toml`, and those of every extra for users."""
    project = (PROJECT / "pyproject.toml").read_text()
    lists = dict(re.findall(r"^([a-z]+) = \[(.*?)\](?:\n|$)", project, re.MULTILINE | re.DOTALL))
    extras = project.split("[project.optional-dependencies]")[1].split("[project.scripts]")[0]
    chosen = {"dependencies", *re.findall(r"^([a-z]+) = \[", extras, re.MULTILINE)} - _TOOLS
    return {name.lower() for extra in chosen for name in re.findall(r'"([A-Za-z0-9.-]+)[<>=]', lists[extra])}


def in_the_images() -> set[str]:
    """Return the packages that the container images install besides PyTorch and IPEX."""
    texts = [path.read_text() for path in (PROJECT / "docker").glob("requirements-*.txt")]
    return {name for text in texts for name in re.findall(r"^([a-z0-9-]+)==", text, re.MULTILINE)}


def test_every_dependency_is_in_the_notices() -> None:
    used = used_by_the_package()
    assert {"torch", "tensorflow-cpu", "onnxruntime"} <= used
    assert "pytest" not in used
    assert listed() == used | in_the_images()


def test_the_images_packages_are_found() -> None:
    assert {"intel-openmp", "numpy", "tensorboardx"} <= in_the_images()
