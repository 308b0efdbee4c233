"""A copy of the project's scripts, on a PATH of chosen tools and of fakes that record how they are called."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

from bert_large import cli

PROJECT = Path(__file__).resolve().parents[3]
TOOLS = ("bash", "cat", "cp", "date", "dirname", "env", "git", "grep", "id", "kill", "mkdir", "mktemp",
         "printf", "realpath", "rm", "sed", "sleep", "sort", "stat", "tail", "wc", "xargs")  # fmt: skip

FAKE = """#!{python}
import json, os, sys
with open({log!r}, "a") as log:
    log.write(json.dumps({{"arguments": sys.argv[1:], "environment": dict(os.environ)}}) + "\\n")
{body}
"""


@dataclass(frozen=True)
class Call:
    """One call of a fake tool."""

    arguments: list[str]
    environment: dict[str, str]

    def value(self, option: str) -> str:
        """Return the word after the option, which must be there once."""
        assert self.arguments.count(option) == 1, f"{option} in {self.arguments}"
        return self.arguments[self.arguments.index(option) + 1]

    def values(self, option: str) -> list[str]:
        """Return the words after each occurrence of the option."""
        return [after for word, after in zip(self.arguments, self.arguments[1:], strict=False) if word == option]

    def parse(self, *, drop: str = "") -> argparse.Namespace:
        """Return the settings that `bert-large` reads from the words and the environment of the call."""
        words = self.arguments[self.arguments.index("bert_large") + 1 :]
        with mock.patch.dict(os.environ, self.environment, clear=True):
            return cli.parse([word for word in words if word != drop])


@dataclass
class Sandbox:
    """Runs scripts of the copied project, with only the variables that a test gives them."""

    directory: Path
    variables: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.bin = self.directory / "bin"
        self.bin.mkdir()
        for tool in TOOLS:
            found = shutil.which(tool)
            assert found is not None, f"the scripts need {tool}"
            (self.bin / tool).symlink_to(found)
        self.project = self.directory / "the project"
        shutil.copytree(PROJECT / "quickstart", self.project / "quickstart")
        shutil.copytree(PROJECT / "docker", self.project / "docker", ignore=shutil.ignore_patterns("*.Dockerfile"))
        for name in ("run.sh", "build.sh", "pyproject.toml"):
            shutil.copy2(PROJECT / name, self.project / name)

    def fake(self, name: str, body: str = "", directory: Path | None = None) -> Path:
        """Put a tool on the PATH that records its calls, then runs `body`, which is Python."""
        path = (directory or self.bin) / name
        path.write_text(FAKE.format(python=sys.executable, log=str(self.directory / f"{name}.calls"), body=body))
        path.chmod(0o755)
        return path

    def fake_that_waits(self, name: str, exit_code: int) -> Path:
        """Like `fake`; a SIGTERM ends it with an exit code. Returns the file that it makes when it is ready for that.

        It waits when it is called as `docker run` or `python -m`; everything else ends at once.
        """
        ready = self.directory / f"{name} is ready"
        self.fake(
            name,
            "import pathlib, signal, time\n"
            "if sys.argv[1] in ('run', '-m'):\n"
            f"    signal.signal(signal.SIGTERM, lambda *_: sys.exit({exit_code}))\n"
            f"    pathlib.Path({str(ready)!r}).touch()\n"
            "    time.sleep(30)\n",
        )
        return ready

    def calls(self, name: str) -> list[Call]:
        """Return the recorded calls of a fake tool, the first first."""
        log = self.directory / f"{name}.calls"
        return [Call(**json.loads(line)) for line in log.read_text().splitlines()] if log.exists() else []

    def folder(self, name: str) -> str:
        """Make a folder and return its path."""
        path = self.directory / name
        path.mkdir(parents=True, exist_ok=True)
        return str(path)

    def file(self, name: str) -> str:
        """Make an empty file and return its path."""
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        return str(path)

    def start(self, script: str) -> subprocess.Popen[bytes]:
        """Start a script of the project."""
        environment = {"PATH": str(self.bin), **self.variables}
        return subprocess.Popen([self.project / script], env=environment, cwd=self.directory, stdin=subprocess.DEVNULL)

    def run(self, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a script of the project and return what came of it."""
        return subprocess.run(
            [str(self.project / script), *arguments],
            env={"PATH": str(self.bin), **self.variables},
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


def wait_for(path: Path) -> None:
    """Wait until a file is there."""
    deadline = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.01)
