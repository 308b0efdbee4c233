"""Micro-batches of new sizes cost nothing extra in bf16: oneDNN compiles no code for them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.new_sizes import NEW_SIZES
from tests.support.runs import process_environment


@pytest.mark.parametrize("models", [["pretraining", "evaluation"], ["accelerated"]], ids=" ".join)
def test_nothing_is_compiled_for_new_sizes(models: list[str]) -> None:
    """The program's last product, which is PyTorch's, shows that the log has what is compiled."""
    if "accelerated" in models:
        pytest.importorskip("transformers", minversion="5", reason="needs Hugging Face's transformers")
    environment = process_environment() | {"ONEDNN_VERBOSE": "profile_create"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.new_sizes", *models], env=environment, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    *_, last = done.stdout.partition(NEW_SIZES)
    created = [line for line in last.splitlines() if "create:cache_miss" in line]
    assert len(created) == 1 and "100x64:64x64" in created[0], created
