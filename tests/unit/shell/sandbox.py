"""A copy of the project's scripts, with a PATH of chosen tools and of fake tools that record their calls."""

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
    log.write(json.dumps({{"tool": {name!r}, "arguments": sys.argv[1:], "environment": dict(os.environ)}}) + "\\n")
{body}
"""


@dataclass(frozen=True)
class Call:
    """One call of a fake tool."""

    tool: str
    arguments: list[str]
    environment: dict[str, str]

    def value(self, option: str) -> str:
        """Return the word after the option, which must occur once."""
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
    """Runs scripts of the copied project with the variables that a test sets and no others."""

    directory: Path
    variables: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.bin, self.log = self.directory / "bin", self.directory / "calls"
        self.bin.mkdir()
        for tool in TOOLS:
            self.link_tool(tool)
        self.project = self.directory / "the project"
        shutil.copytree(PROJECT / "quickstart", self.project / "quickstart")
        shutil.copytree(PROJECT / "docker", self.project / "docker", ignore=shutil.ignore_patterns("*.Dockerfile"))
        for name in ("run.sh", "build.sh", "pyproject.toml"):
            shutil.copy2(PROJECT / name, self.project / name)

    def link_tool(self, name: str) -> None:
        """Put a real tool on the PATH."""
        found = shutil.which(name)
        assert found is not None, f"the scripts need {name}"
        (self.bin / name).symlink_to(found)

    def fake(self, name: str, body: str = "", directory: Path | None = None) -> Path:
        """Put a tool on the PATH that records its calls and then runs `body`, Python code."""
        path = (directory or self.bin) / name
        path.unlink(missing_ok=True)  # a link to the real tool
        path.write_text(FAKE.format(python=sys.executable, log=str(self.log), name=name, body=body))
        path.chmod(0o755)
        return path

    def calls(self, *names: str) -> list[Call]:
        """Return the recorded calls of these fake tools, or of all, in order."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [call for line in lines if (call := Call(**json.loads(line))).tool in names or not names]

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

    def run(self, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a script of the project and return its result."""
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

    def succeed(self, script: str, *arguments: str) -> Call:
        """Run a script that must succeed and return the last call of a fake tool."""
        result = self.run(script, *arguments)
        assert result.returncode == 0, result.stderr
        return self.calls()[-1]

    def refuse(self, script: str) -> str:
        """Run a script that must fail before it starts a trainer, container or build; return its one line of error."""
        before = len(self.calls())
        result = self.run(script)
        assert (result.returncode, result.stdout) == (2, ""), result.stderr
        for call in self.calls()[before:]:
            assert call.arguments[0] not in ("-m", "run", "build") or "--help" in call.arguments
        (line,) = result.stderr.splitlines()
        return line

    def stop(self, script: str, tool: str) -> int:
        """Start a script, send it SIGTERM as soon as it runs a command by a tool, and return its exit code.

        The command is `docker run` or `python -m`, and ends with exit code 43 on SIGTERM.
        """
        ready = self.directory / "ready"
        self.fake(
            tool,
            "import pathlib, signal, time\n"
            "if sys.argv[1] in ('run', '-m'):\n"
            "    signal.signal(signal.SIGTERM, lambda *_: sys.exit(43))\n"
            f"    pathlib.Path({str(ready)!r}).touch()\n"
            "    time.sleep(30)\n",
        )
        environment = {"PATH": str(self.bin), **self.variables}
        with subprocess.Popen(
            [self.project / script], env=environment, cwd=self.directory, stdin=subprocess.DEVNULL
        ) as process:
            deadline = time.monotonic() + 20
            while not ready.exists():
                assert time.monotonic() < deadline, f"{script} did not run {tool}"
                time.sleep(0.01)
            process.terminate()
            return process.wait(timeout=20)


def mount(path: str, mode: str = "") -> str:
    """Return the option of a container engine that mounts a path under the same name."""
    return f"type=bind,source={path},target={path}{mode}"
