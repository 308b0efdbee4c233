"""Ranks that differ are refused, with their differences."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from bert_large.distributed.consistency import digest_of_source, require_agreement, software
from bert_large.errors import InputError

NAMES = ["rank 0 on host a", "rank 1 on host b"]


def test_equal_ranks_are_accepted() -> None:
    require_agreement([{"seed": 1}, {"seed": 1}], NAMES)


def test_each_difference_is_named() -> None:
    with pytest.raises(InputError) as raised:
        require_agreement([{"seed": 1, "precision": "fp32", "steps": 3}, {"seed": 2, "steps": 3}], NAMES)
    for found in (
        "rank 1 on host b: ",
        "precision is None, on rank 0 on host a fp32",
        "seed is 2, on rank 0 on host a 1",
    ):
        assert found in str(raised.value)
    assert "steps" not in str(raised.value)


def test_software_names_versions_and_source() -> None:
    assert software() == {"bert-large": "0.1.0", "source code": digest_of_source(), "torch": torch.__version__}


def test_digest_of_source(tmp_path: Path) -> None:
    """It depends on the names and contents of source files, and on nothing else."""

    def digest(**files: str) -> str:
        for path in tmp_path.iterdir():
            path.unlink()
        for name, content in files.items():
            (tmp_path / name.replace("_", ".")).write_text(content)
        return digest_of_source(tmp_path)

    original = digest(a_py="1", b_cpp="2")
    assert digest(a_py="1", b_cpp="2", c_pyc="3", d_so="4") == original
    assert len({original, digest(a_py="1", b_cpp="3"), digest(a_py="1", c_cpp="2"), digest(a_py="12", b_cpp="")}) == 4
