"""The description of the base image."""

from __future__ import annotations

from pathlib import Path

from bert_large.observe.machine import describe_base_image


def test_the_note_of_the_image(tmp_path: Path) -> None:
    note = tmp_path / "base_image.txt"
    note.write_text("torch 2.7.0, IPEX 2.7.0, without oneCCL (ONECCL=none)\n")
    assert describe_base_image(note) == "base image: torch 2.7.0, IPEX 2.7.0, without oneCCL (ONECCL=none)"


def test_without_an_image(tmp_path: Path) -> None:
    assert describe_base_image(tmp_path / "base_image.txt") is None
