"""Files are whole or absent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from bert_large.files import write_atomically


def test_output_appears_when_complete(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with write_atomically(path) as file:
        file.write(b"new")
        assert not path.exists()
        assert [entry.name for entry in tmp_path.iterdir()] == [f".out.{os.getpid()}.partial"]
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_failed_output_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), write_atomically(path) as file:
        file.write(b"new")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
