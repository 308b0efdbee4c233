"""Checks of the operating system's limits."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from bert_large.doctor import system
from bert_large.doctor.finding import OK, PROBLEM, WARNING
from bert_large.errors import UserError


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


def test_no_usable_shared_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise UserError("no semaphore can be created in /dev/shm")

    monkeypatch.setattr(system, "require_semaphores", refuse)
    finding = system.check_shared_memory(None, uses_ccl=False)
    assert finding.level == PROBLEM and "/dev/shm" in finding.found


def test_port() -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        finding = system.check_port(port)
        assert finding.level == PROBLEM and str(port) in finding.found
    assert system.check_port(port).level == OK
    assert system.check_port(70000).level == PROBLEM


def test_container_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system.shutil, "which", lambda name: f"/bin/{name}" if name != "podman" else None)
    engines = ("podman", "docker")
    found = system.check_container_engine(None, engines, lambda name: True)
    assert found.level == OK and "docker" in found.found
    silent = system.check_container_engine(None, engines, lambda name: False)
    assert silent.level == WARNING and "podman" in silent.found and "docker" in silent.found
    assert system.check_container_engine("base image: stock", engines, lambda name: False).level == OK


def test_an_engine_that_does_not_answer(tmp_path: Path) -> None:
    for code in (0, 1):
        script = tmp_path / f"engine{code}"
        script.write_text(f"#!/bin/sh\nexit {code}\n")
        script.chmod(0o755)
        assert system.engine_answers(str(script)) == (code == 0)
    assert not system.engine_answers(str(tmp_path / "none"))
