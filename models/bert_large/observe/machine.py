"""The machine and the software that figures were measured with."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import bert_large
from bert_large.cpu import read_cpu_flags

RELEVANT_FLAGS = (
    "avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "amx_fp16",
)  # fmt: skip
_VARIABLES = ("OMP_NUM_THREADS", "KMP_AFFINITY", "LD_PRELOAD", "DNNL_MAX_CPU_ISA", "ONEDNN_MAX_CPU_ISA")


def describe_software() -> dict[str, Any]:
    """Return what figures depend on besides the machine; part of every benchmark's figures."""
    return {
        "cpu": read_cpu_model(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "bert_large": bert_large.__version__,
    }


def read_cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the CPU's name, or the architecture where the system does not say."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return platform.machine()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def peak_memory_bytes(status: Path = Path("/proc/self/status")) -> int:
    """Return the most resident memory this process ever had.

    Not `ru_maxrss`, which a process inherits from the one that started it.
    """
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status.read_text(), re.MULTILINE)
    if found is None:
        raise OSError(f"{status} has no line VmHWM: the kernel does not tell this process's peak memory")
    return int(found[1]) * 1024


@dataclass(frozen=True)
class Machine:
    """What a record says of where it was measured."""

    cpu: str
    cores: int
    flags: list[str]
    is_virtual: bool
    memory_bytes: int
    load: tuple[float, float, float]
    """Load averages (1, 5, 15 minutes) before the first benchmark: others at work disturb the figures."""
    system: str
    versions: dict[str, str]
    variables: dict[str, str]
    threads: int

    @classmethod
    def read(cls) -> Machine:
        """Read it from the system."""
        flags = read_cpu_flags()
        packages = ("torch", "transformers", "numpy")
        return cls(
            cpu=read_cpu_model(),
            cores=len(os.sched_getaffinity(0)),
            flags=[flag for flag in RELEVANT_FLAGS if flag in flags],
            is_virtual="hypervisor" in flags,
            memory_bytes=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
            load=os.getloadavg(),
            system=f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
            versions={name: _version(name) for name in packages},
            variables={name: os.environ[name] for name in _VARIABLES if name in os.environ},
            threads=torch.get_num_threads(),
        )

    @property
    def slug(self) -> str:
        """The CPU's name as part of a file's name."""
        words = re.sub(r"\((r|tm)\)|\bcpu\b|\bprocessor\b|@.*", " ", self.cpu.lower())
        return f"{'-'.join(re.findall(r'[a-z0-9]+', words)) or 'cpu'}-{self.cores}-cores"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def read_commit(folder: Path = Path(__file__).parent) -> str:
    """Return the commit of the checkout that the package lies in, marked if files differ from it."""
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return f"{commit} with local changes" if _git(folder, "status", "--porcelain") else commit
    except (OSError, subprocess.CalledProcessError):
        return f"unknown (version {bert_large.__version__}, not in a git checkout)"


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()
