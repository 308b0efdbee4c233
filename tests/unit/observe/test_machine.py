"""The memory and the packages of a process."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from bert_large.observe.machine import package_version, peak_memory_bytes


def test_peak_memory(tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text("Name:\tpython\nVmPeak:\t  999 kB\nVmHWM:\t  2048 kB\nVmRSS:\t  100 kB\n")
    assert peak_memory_bytes(status) == 2 << 20
    assert peak_memory_bytes() > 1 << 20
    status.write_text("Name:\tpython\n")
    with pytest.raises(OSError, match=str(status)):
        peak_memory_bytes(status)


def test_package_version() -> None:
    assert package_version("torch") == torch.__version__
    assert package_version("no-such-package") is None
