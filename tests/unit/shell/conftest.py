"""Fixtures of the shell tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from .sandbox import Sandbox


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    """A copy of the scripts with a fake python3 and no variables set."""
    sandbox = Sandbox(tmp_path)
    sandbox.fake("python3")
    return sandbox


@pytest.fixture
def phase_1(sandbox: Sandbox) -> Sandbox:
    """The sandbox with what phase 1 requires, every path with a space in it."""
    sandbox.variables |= {
        "PRECISION": "bf16",
        "OUTPUT_DIR": str(sandbox.directory / "out put"),
        "DATASET_DIR": sandbox.folder("data set"),
        "CONFIG_FILE": sandbox.file("model config/bert config.json"),
    }
    return sandbox


@pytest.fixture
def phase_2(sandbox: Sandbox) -> Sandbox:
    """The sandbox with what phase 2 requires, every path with a space in it."""
    sandbox.variables |= {
        "PRECISION": "fp32",
        "OUTPUT_DIR": str(sandbox.directory / "out put 2"),
        "DATASET_DIR": sandbox.folder("data set"),
        "CHECKPOINT_DIR": sandbox.folder("out put 1/model_save"),
    }
    return sandbox


@pytest.fixture
def finetune(sandbox: Sandbox) -> Sandbox:
    """The sandbox with what fine-tuning requires, every path with a space in it."""
    sandbox.variables |= {
        "TASK": "sst2",
        "OUTPUT_DIR": str(sandbox.directory / "out put"),
        "CHECKPOINT_DIR": sandbox.folder("out put 2/model_save"),
    }
    return sandbox


@pytest.fixture
def docker(phase_1: Sandbox) -> Sandbox:
    """What phase 1 requires, and a fake docker that has every image."""
    phase_1.fake("docker")
    return phase_1
