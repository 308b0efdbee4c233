"""A user of run.sh, and a stand-in for the trainer that reports its environment inside the container."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .engine import PROJECT, Engine

PROBE = '''
"""A stand-in for the trainer: reports its environment, then waits or fails if its last argument says so."""
import getpass, json, os, pathlib, signal, sys, tempfile, time

def can_write(path):
    try:
        if path.is_dir():
            with tempfile.TemporaryFile(dir=path):
                return True
        with path.open("r+b"):
            return True
    except OSError:
        return False

options = dict(word.split("=", 1) for word in sys.argv if "=" in word)
output = pathlib.Path(options["--output-dir"])
lines = pathlib.Path("/proc/self/status").read_text().splitlines()
status = dict(line.split(":\\t", 1) for line in lines if ":\\t" in line)
paths = {name: value for name, value in options.items() if value.startswith("/")}
report = {
    "uid": os.getuid(), "gid": os.getgid(), "user": getpass.getuser(),
    "capabilities": int(status["CapEff"], 16), "no_new_privileges": status["NoNewPrivs"].strip() == "1",
    "first_process": pathlib.Path("/proc/1/comm").read_text().strip(),
    "shared_memory_bytes": os.statvfs("/dev/shm").f_blocks * os.statvfs("/dev/shm").f_frsize,
    "home_is_writable": can_write(pathlib.Path.home()),
    "image_is_writable": can_write(pathlib.Path("/")),
    "readable": {name: os.access(value, os.R_OK) for name, value in paths.items()},
    "writable": {name: can_write(pathlib.Path(value)) for name, value in paths.items()},
    "instruction_set": os.environ.get("DNNL_MAX_CPU_ISA"),
    "arguments": sys.argv[1:],
}
(output / "report.json").write_text(json.dumps(report))
if sys.argv[-1] == "--wait":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(48))
    (output / "waiting").touch()
    time.sleep(60)
if sys.argv[-1] == "--fail":
    sys.exit(47)
'''


@dataclass
class Caller:
    """A user with a copy of the project's scripts, and files that belong to the user, with spaces in their paths."""

    engine: Engine
    folder: Path
    uid: int
    groups: list[int] = field(default_factory=list)
    """Supplementary groups."""
    variables: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.project = self.folder / "project"
        shutil.copytree(PROJECT / "quickstart", self.project / "quickstart")
        shutil.copy2(PROJECT / "run.sh", self.project)
        self.home = self.folder / "my files"
        self.home.mkdir()
        for name in ("data set", "check point"):
            (self.home / name).mkdir()
        (self.home / "bert config.json").write_text("{}")
        (self.home / "probe.py").write_text(PROBE)
        self.variables |= {
            "PRECISION": "fp32",
            "OUTPUT_DIR": str(self.home / "out put"),
            "DATASET_DIR": str(self.home / "data set"),
            "CONFIG_FILE": str(self.home / "bert config.json"),
        }
        self.own()

    def own(self) -> None:
        """Give the caller all files."""
        for path in (self.folder, *self.folder.rglob("*")):
            os.chown(path, self.uid, self.uid)

    def use_probe(self) -> Caller:
        """Use the probe instead of the trainer."""
        self.variables["TRAIN_SCRIPT"] = str(self.home / "probe.py")
        return self

    @property
    def report(self) -> dict[str, Any]:
        """The report of the probe."""
        return json.loads((Path(self.variables["OUTPUT_DIR"]) / "report.json").read_text())

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start run.sh as the caller."""
        return subprocess.Popen(
            [self.project / "run.sh", *arguments],
            env=self.engine.environment | self.variables,
            cwd=self.home,
            user=self.uid,
            group=self.uid,
            extra_groups=self.groups,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, timeout: float = 600) -> subprocess.CompletedProcess[str]:
        """Run run.sh as the caller and wait for its end."""
        process = self.start(*arguments)
        stdout, stderr = process.communicate(timeout=timeout)
        return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)
