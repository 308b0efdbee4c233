"""Findings on what the system grants."""

from __future__ import annotations

from pathlib import Path

import pytest
from bert_large.doctor import system
from bert_large.doctor.finding import OK, PROBLEM, WARNING


@pytest.mark.parametrize(
    ("setting", "level"),
    [
        ("always [madvise] never\n", OK),
        ("[always] madvise never\n", OK),
        ("always madvise [never]\n", WARNING),
        (None, WARNING),
    ],
)
def test_huge_pages(setting: str | None, level: str) -> None:
    assert system.check_huge_pages(setting).level == level


@pytest.mark.parametrize(
    ("size", "uses_ccl", "level"),
    [(64 << 20, False, OK), (None, False, OK), (64 << 20, True, WARNING), (None, True, WARNING), (8 << 30, True, OK)],
)
def test_shared_memory(size: int | None, uses_ccl: bool, level: str) -> None:
    assert system.check_shared_memory(size, uses_ccl).level == level


@pytest.mark.parametrize(("soft", "level"), [(256, WARNING), (1023, WARNING), (1024, OK), (1 << 30, OK)])
def test_open_files(soft: int, level: str) -> None:
    assert system.check_open_files(soft).level == level


@pytest.mark.parametrize(("free", "level"), [(13, OK), (12, WARNING), (4, WARNING), (3, PROBLEM)])
def test_disk(free: int, level: str) -> None:
    """Two checkpoints of 4 GB are kept, the third is written before one goes, and the model is 1 GB."""
    giga = 10**9
    finding = system.check_disk(Path("/runs"), free * giga, 4 * giga, giga, keep=2)
    assert finding.level == level
    assert "13 GB needed: 3 checkpoints of 4 GB" in finding.found


def test_container_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system.shutil, "which", lambda name: f"/bin/{name}" if name != "podman" else None)
    engines = ("podman", "docker")
    found = system.check_container_engine(None, engines, lambda name: True)
    assert (found.level, found.found) == (OK, "docker is there and answers")
    silent = system.check_container_engine(None, engines, lambda name: False)
    assert (silent.level, silent.found) == (WARNING, "podman is not installed; docker does not answer")
    assert system.check_container_engine("base image: stock", engines, lambda name: False).level == OK


def test_an_engine_that_does_not_answer(tmp_path: Path) -> None:
    for code in (0, 1):
        script = tmp_path / f"engine{code}"
        script.write_text(f"#!/bin/sh\nexit {code}\n")
        script.chmod(0o755)
        assert system.engine_answers(str(script)) == (code == 0)
    assert not system.engine_answers(str(tmp_path / "none"))
