"""The README and the guides as tests read them: blocks of commands, links and paths."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.support.runs import PROJECT

DOCUMENTS = sorted(
    path.relative_to(PROJECT).as_posix()
    for pattern in ("*.md", "docs/*.md", "jobs/*/*.md", "tests/*.md", "benchmarks/*.md")
    for path in PROJECT.glob(pattern)
)
_FOLDERS = ("benchmarks", "docker", "docs", "jobs", "licenses", "models", "notebooks", "quickstart", "tests")
_MARK = re.compile(r"<!-- (run|needs): (.+) -->")
_FENCED = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block of shell commands."""

    place: str
    """Document and line."""
    mark: str
    """`run`, `needs`, or empty: from the HTML comment on the line before the fence."""
    what: str
    """The group of blocks that run in order, or the requirement of the commands."""
    text: str


def read(document: str) -> str:
    """Return the text of a document."""
    return (PROJECT / document).read_text(encoding="utf-8")


def blocks(document: str) -> list[Block]:
    """Return the blocks of shell commands of a document, in order."""
    found: list[Block] = []
    lines = read(document).splitlines()
    for number, line in enumerate(lines):
        if line == "```bash":
            end = lines.index("```", number)
            mark = _MARK.fullmatch(lines[number - 1]) if number else None
            kind, what = (mark[1], mark[2]) if mark else ("", "")
            found.append(Block(f"{document}:{number + 1}", kind, what, "\n".join(lines[number + 1 : end]) + "\n"))
    return found


def broken_links(document: str) -> list[str]:
    """Return the links to files and headings, and the project's paths in code, that lead nowhere."""
    broken = []
    for target in re.findall(r"\]\(([^)]+)\)", read(document)):
        name, _, anchor = target.partition("#")
        path = (PROJECT / document).parent / name if name else PROJECT / document
        if "://" not in target and (not path.exists() or (anchor and anchor not in _anchors(path))):
            broken.append(target)
    for code in re.findall(r"`([^`\n]+)`", _FENCED.sub("", read(document))):
        for word in re.split(r"[ =]", code):
            name = word.removeprefix("./")
            if name.startswith(tuple(f"{folder}/" for folder in _FOLDERS)):
                pattern = re.sub(r"…|\{[^}]*\}", "*", name.partition("#")[0])
                relative = (PROJECT / document).parent
                if not list(PROJECT.glob(pattern)) and not list(relative.glob(pattern)):
                    broken.append(code)
    return broken


def _anchors(document: Path) -> set[str]:
    """Return the anchors of the headings of a document, as code hosts build them."""
    headings = re.findall(r"^#+ (.+)$", _FENCED.sub("", document.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def make_workshop(folder: Path) -> None:
    """Make a folder that looks like the project after `make setup`, with the documents' /data and /runs in it."""
    for path in PROJECT.iterdir():
        if path.name not in (".git", ".venv", "output"):
            (folder / path.name).symlink_to(path)
    (folder / "data").mkdir()
    (folder / "runs").mkdir()
    programs = folder / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name, command in (("python", ""), ("bert-large", " -m bert_large")):
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)}{command} "$@"\n')
        program.chmod(0o755)


def run_group(
    document: str, group: str, folder: Path, settings: Mapping[str, str], replaced: Mapping[str, str] | None = None
) -> str:
    """Run the blocks of a group in a workshop as one script, and return their output.

    `settings` are environment variables; `replaced` maps parts of the script to smaller ones, where no variable can.
    """
    script = "".join(block.text for block in blocks(document) if (block.mark, block.what) == ("run", group))
    assert script, f"{document} has no blocks of group {group}"
    script = re.sub(r"(?<![\w./])/(data|runs)\b", rf"{folder}/\1", script)
    for original, smaller in (replaced or {}).items():
        assert original in script, original
        script = script.replace(original, smaller)
    outer = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    own = {"PYTHONPATH": str(PROJECT / "models"), "OMP_NUM_THREADS": "1", "RANKS_PER_NODE": "1", "RUNTIME": "native",
           "PYTHON": sys.executable}  # fmt: skip
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=outer | own | dict(settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout
