"""What a record says of the machine."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from bert_large.observe.machine import Machine, peak_memory_bytes, read_commit, read_cpu_model


def test_cpu_model(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nmodel name\t: Intel(R) Xeon(R) Platinum 8480+ CPU @ 2.00GHz\nflags\t: avx2\n")
    assert read_cpu_model(cpuinfo) == "Intel(R) Xeon(R) Platinum 8480+ CPU @ 2.00GHz"


@pytest.mark.parametrize(
    ("cpu", "slug"),
    [
        ("Intel(R) Xeon(R) Platinum 8480+ CPU @ 2.00GHz", "intel-xeon-platinum-8480-56-cores"),
        ("AMD EPYC 9654 96-Core Processor", "amd-epyc-9654-96-core-56-cores"),
        ("", "cpu-56-cores"),
    ],
)
def test_slug(cpu: str, slug: str) -> None:
    values = Machine.read().__dict__ | {"cpu": cpu, "cores": 56}
    assert Machine(**values).slug == slug


def test_peak_memory(tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text("Name:\tpython\nVmPeak:\t  999 kB\nVmHWM:\t  2048 kB\nVmRSS:\t  100 kB\n")
    assert peak_memory_bytes(status) == 2 << 20
    assert peak_memory_bytes() > 1 << 20
    status.write_text("Name:\tpython\n")
    with pytest.raises(OSError, match="VmHWM"):
        peak_memory_bytes(status)


def test_commit(tmp_path: Path) -> None:
    assert read_commit(tmp_path).startswith("unknown (version ")
    identity = ["-c", "user.name=n", "-c", "user.email=e@x"]
    for arguments in (["init", "-q"], [*identity, "commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True)
    commit = read_commit(tmp_path)
    assert len(commit) == 40
    (tmp_path / "new").write_text("")
    assert read_commit(tmp_path) == f"{commit} with local changes"
