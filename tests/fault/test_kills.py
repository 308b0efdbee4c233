"""A run that is killed at any moment has the result of an undisturbed one. `python -m tests.fault.kills` is longer."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fault.kills import kill_often


@pytest.mark.slow
def test_one_rank(tmp_path: Path) -> None:
    """While a checkpoint is written, in an evaluation, and at the end."""
    found = kill_often(tmp_path, aims=("checkpoint", "evaluation"), last_aims=("model_save",), ranks=1, seed=1)
    assert sum(found.values()) >= 2


@pytest.mark.slow
def test_one_of_two_ranks(tmp_path: Path) -> None:
    """The other ends with it."""
    assert sum(kill_often(tmp_path, aims=("step",), last_aims=(), ranks=2, seed=1).values()) == 1
