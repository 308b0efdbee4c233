"""The README and the guides as tests read them: blocks of commands, links, messages that are quoted."""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.support.runs import PROJECT

DOCUMENTS = sorted(
    path.relative_to(PROJECT).as_posix()
    for pattern in ("README.md", "docs/*.md", "jobs/*/README.md")
    for path in PROJECT.glob(pattern)
)
GAP = "…"
"""What stands for a value in a quoted message, and for the value's expression in the message's source."""
_MARK = re.compile(r"<!-- (run|needs): (.+) -->")
_VALUE_IN_SHELL = re.compile(r"\$\{[^}]*\}|\$\w+|\$\(.*?\)")


@dataclass(frozen=True)
class Block:
    """A fenced block of shell commands."""

    document: str
    line: int
    mark: str
    """`run`, `needs`, or nothing: of the HTML comment on the line before the fence."""
    what: str
    """The group that is run in order, or what the commands need."""
    text: str

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"


def read(document: str) -> str:
    """Return a document's text."""
    return (PROJECT / document).read_text(encoding="utf-8")


def blocks(document: str) -> list[Block]:
    """Return a document's blocks of shell commands, in order."""
    found: list[Block] = []
    lines = read(document).splitlines()
    for number, line in enumerate(lines):
        if line == "```bash":
            end = lines.index("```", number)
            mark = _MARK.fullmatch(lines[number - 1]) if number else None
            kind, what = (mark[1], mark[2]) if mark else ("", "")
            found.append(Block(document, number + 1, kind, what, "\n".join(lines[number + 1 : end]) + "\n"))
    return found


def groups() -> list[tuple[str, str]]:
    """Return each document's groups of blocks that are run, in order."""
    return list(
        dict.fromkeys((name, block.what) for name in DOCUMENTS for block in blocks(name) if block.mark == "run")
    )


def commands(text: str) -> Iterator[list[str]]:
    """Yield the words of each command of a script, without variables set before it, comments and here-documents."""
    text = re.sub(r"(<<'?(\w+)'?.*?)\n.*?^\2$", r"\1", text, flags=re.DOTALL | re.MULTILINE)
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        command: list[str] = []
        before = ";"
        for word in [*lexer, ";"]:
            if set(word) <= set("();|&"):
                if command:
                    yield command
                command = []
            elif set(word) <= set("<>&") or set(before) <= set("<>"):
                pass  # where input comes from or output goes
            elif command or not re.match(r"\w+=|(do|then|done|fi|exec)$", word):
                command.append(word)
            before = word
        for inner in re.findall(r'"\$\((.*)\)"', line):
            yield from commands(inner)


def variables(text: str) -> set[str]:
    """Return the names of the environment variables that a script sets."""
    return set(re.findall(r"(?<![\w$-])([A-Z][A-Z0-9_]+)=", text))


def make_workshop(folder: Path) -> None:
    """Make a folder that looks like the project after `make setup`, with /data and /runs of the documents in it."""
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
    """Run a group's blocks in a workshop as one script and return what they print.

    `settings` are environment variables; `replaced` has parts of the script for which a variable cannot give others.
    """
    script = "".join(block.text for block in blocks(document) if (block.mark, block.what) == ("run", group))
    script = re.sub(r"(?<![\w./])/(data|runs)\b", rf"{folder}/\1", script)
    for theirs, ours in (replaced or {}).items():
        assert theirs in script, theirs
        script = script.replace(theirs, ours)
    outer = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    own = {"PYTHONPATH": str(PROJECT / "models"), "OMP_NUM_THREADS": "1", "RANKS_PER_NODE": "1", "RUNTIME": "native"}
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


def anchors(document: str) -> set[str]:
    """Return the anchors of a document's headings, as code hosts make them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", read(document), flags=re.S | re.M), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@cache
def message_sources() -> list[str]:
    """Return every string of the package, and every line of the scripts, with a gap for each value put into it."""
    found = []
    for path in sorted((PROJECT / "models").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(str(its.value) if isinstance(its, ast.Constant) else GAP for its in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    for script in (PROJECT / "run.sh", PROJECT / "build.sh", *sorted((PROJECT / "quickstart").glob("*.sh"))):
        text = re.sub(r'" \\\n\s*"', " ", script.read_text(encoding="utf-8"))
        found += _VALUE_IN_SHELL.sub(GAP, text).splitlines()
    return found


def is_in_source(message: str) -> bool:
    """Tell whether one string of the source has all of a quoted message, its parts between gaps, in order."""
    pattern = re.compile(".*".join(re.escape(part.strip()) for part in message.split(GAP)), re.DOTALL)
    return any(pattern.search(source) for source in message_sources())
