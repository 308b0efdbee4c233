"""Writes docs/settings.md and quickstart/variables.sh from the package's settings. Usage: settings.py [--check]"""

from __future__ import annotations

import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT / "models"))

from bert_large.cli import build_parser  # noqa: E402
from reference import make_page, make_shell_lists  # noqa: E402

COMMANDS = ("pretrain", "evaluate", "finetune", "corpus", "vocab", "prepare", "pick")
REGENERATE = ".venv/bin/python .ci/settings.py"


def main(arguments: list[str]) -> int:
    """Write the files; with `--check`, only return 1 if one of them is not current."""
    commands = {name: build_parser(name).settings_of_command(name) for name in COMMANDS}
    files = {
        PROJECT / "docs/settings.md": make_page(commands, REGENERATE),
        PROJECT / "quickstart/variables.sh": make_shell_lists(commands, REGENERATE),
    }
    outdated = [path for path, text in files.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    for path in outdated:
        if "--check" in arguments:
            print(f"{path} is not current: run {REGENERATE}", file=sys.stderr)
        else:
            path.write_text(files[path], encoding="utf-8")
    return int("--check" in arguments and bool(outdated))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
